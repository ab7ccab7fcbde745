"""What a study says of its search: the configuration and the version of the code, for whoever joins it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna
from optuna import Study
from optuna.storages import BaseStorage

from dicenas import __version__
from dicenas.run_session import differences
from dicenas.workers.storage import hide_password

__all__ = ["DATA_FOUND", "check_manifest", "read_manifest", "search_names", "write_manifest"]

_KEY = "dicenas_search"
#: Key of the settings that says what the data of a search is like; it is in no configuration.
DATA_FOUND = "data_found"


def check_manifest(storage: BaseStorage, name: str, settings: Mapping[str, Any], *, alone: bool) -> None:
    """Check that a study, where there is one, is of the same search, on the same data, and by the same code.

    Args:
        storage: The storage.
        name: Name of the study.
        settings: The configuration of this process.
        alone: Whether nobody else is at work on it; then it may go on with newer code.

    Raises:
        ValueError: It is not; the message says what differs.
    """
    try:
        kept = optuna.load_study(study_name=name, storage=storage).user_attrs.get(_KEY)
    except KeyError:
        return
    if kept is None:
        return
    found = differences(kept["settings"], settings)
    if found and all(line.startswith(f"  {DATA_FOUND}.") for line in found):
        raise ValueError(
            f"the data is not that of study {name!r}; bring it back, or take another name:\n"
            + "\n".join(line.replace(f"{DATA_FOUND}.", "") for line in found)
        )
    if kept["version"] != __version__ and not alone:
        found.append(f"  version of dicenas: {kept['version']} there, {__version__} here")
    if found:
        lines = "\n".join(found)
        raise ValueError(f"study {name!r} in this storage belongs to another search:\n{lines}")


def write_manifest(study: Study, settings: Mapping[str, Any]) -> None:
    """Tell a study of which search it is, and by which code, for whoever joins it."""
    manifest = {"settings": dict(settings), "version": __version__}
    if study.user_attrs.get(_KEY) != manifest:
        study.set_user_attr(_KEY, manifest)


def search_names(storage: BaseStorage) -> list[str]:
    """Return the names of the studies in a storage that are of searches; others may lie beside them."""
    studies = optuna.get_all_study_summaries(storage, include_best_trial=False)
    return sorted(study.study_name for study in studies if _KEY in study.user_attrs)


def read_manifest(storage: BaseStorage, url: str, name: str, *, any_version: bool = False) -> dict[str, Any]:
    """Return the settings of a study.

    Args:
        storage: The storage.
        url: Its URL, for messages.
        name: Name of the study.
        any_version: Whether the study may have been made by other code than this; one that is joined may not.

    Raises:
        ValueError: There is no such study, it is not of a search, or newer or older code made it.
    """
    try:
        study = optuna.load_study(study_name=name, storage=storage)
    except KeyError as error:
        names = ", ".join(search_names(storage)) or "none"
        raise ValueError(
            f"there is no study {name!r} in {hide_password(url)} (searches: {names}); dicenas search starts one"
        ) from error
    kept = study.user_attrs.get(_KEY)
    if kept is None:
        raise ValueError(f"study {name!r} in {hide_password(url)} is not that of a search: it does not say of which")
    if kept["version"] != __version__ and not any_version:
        raise ValueError(
            f"study {name!r} is worked on by dicenas {kept['version']}, this is {__version__}; workers of one search "
            "run the same code"
        )
    return {key: value for key, value in kept["settings"].items() if key != DATA_FOUND}

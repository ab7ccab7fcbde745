"""Who may go on with a study: the same search, on the same data, by the same code; and where."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import optuna
import pytest

from dicenas.search import SearchResult, search
from dicenas.workers import manifest
from dicenas.workers.manifest import DATA_FOUND, check_manifest, read_manifest, write_manifest
from tests.reliability.made_up_search import SPACE, MadeUp

SETTINGS: dict[str, Any] = {
    "name": "run",
    "search": {"trials": 3, "seed": 0},
    DATA_FOUND: {"train images": 57, "classes": ["cat", "dog"]},
}


@pytest.fixture
def storage() -> optuna.storages.BaseStorage:
    """A storage with a study that was told of a search."""
    storage = optuna.storages.InMemoryStorage()
    check_manifest(storage, "run", SETTINGS, alone=True)
    write_manifest(optuna.create_study(study_name="run", storage=storage), SETTINGS)
    return storage


def changed(**changes: Any) -> dict[str, Any]:
    return {**SETTINGS, **changes}


def test_the_same_search_goes_on_with_more_trials(storage: optuna.storages.BaseStorage) -> None:
    more = changed(search={"trials": 9, "seed": 0})
    check_manifest(storage, "run", more, alone=False)
    write_manifest(optuna.load_study(study_name="run", storage=storage), more)
    kept = read_manifest(storage, "sqlite://", "run")
    assert kept == {"name": "run", "search": {"trials": 9, "seed": 0}}


def test_another_search_is_refused(storage: optuna.storages.BaseStorage) -> None:
    other = changed(search={"trials": 3, "seed": 7}, data_found={"train images": 50, "classes": ["cat", "dog"]})
    said = (
        "study 'run' in this storage belongs to another search:\n  data_found.train images: 57 there, 50 now\n  search"
    )
    with pytest.raises(ValueError, match=said):
        check_manifest(storage, "run", other, alone=True)


def test_data_that_changed_is_refused(storage: optuna.storages.BaseStorage) -> None:
    fewer = changed(data_found={"train images": 50, "classes": ["cat", "dog"]})
    said = "the data is not that of study 'run'; bring it back, or take another name:\n  train images: 57 there, 50 now"
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        check_manifest(storage, "run", fewer, alone=True)


def test_newer_code_goes_on_only_where_nobody_else_is_at_work(
    storage: optuna.storages.BaseStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = manifest.__version__
    monkeypatch.setattr(manifest, "__version__", "99.0")
    with pytest.raises(ValueError, match=re.escape(f"version of dicenas: {there} there, 99.0 here")):
        check_manifest(storage, "run", SETTINGS, alone=False)
    with pytest.raises(ValueError, match=re.escape(f"is worked on by dicenas {there}, this is 99.0")):
        read_manifest(storage, "sqlite://", "run")
    check_manifest(storage, "run", SETTINGS, alone=True)
    write_manifest(optuna.load_study(study_name="run", storage=storage), SETTINGS)
    assert read_manifest(storage, "sqlite://", "run")["name"] == "run"


def test_a_run_moves_to_another_database(tmp_path: Path) -> None:
    def searched(trials: int, storage: str | None = None) -> SearchResult:
        objectives = ("accuracy", "macs")
        return search(SPACE, MadeUp(), objectives, trials=trials, sampler="random", storage=storage, out=tmp_path)

    run = searched(2).run
    before = run.trials()
    there = f"sqlite:///{tmp_path / 'there.db'}"
    with pytest.raises(ValueError, match=r"holds 2 trials, but there is no study 'search' in sqlite:.*there\.db; name"):
        searched(3, there)
    optuna.copy_study(from_study_name="search", from_storage=run.storage_url, to_storage=there)
    assert searched(3, there).new_trials == 1
    assert [(trial.architecture, trial.metrics["accuracy"]) for trial in run.trials()[:2]] == [
        (trial.architecture, trial.metrics["accuracy"]) for trial in before
    ]
    assert len({trial.architecture.hash for trial in run.trials()}) == 3

"""What surrounds a search: the claim on its run folder, its storage, its log file, the record of its environment."""

from __future__ import annotations

import datetime
import json
import logging
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import torch
import yaml
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.exc import DatabaseError

from dicenas import __version__
from dicenas.config.schema import plain
from dicenas.cost import device_name
from dicenas.files import atomic_write_text
from dicenas.runs import RunFolder

__all__ = ["claim_folder", "ended_well", "logs_in", "muted", "open_storage", "record_environment"]

#: Settings that may change from one call to the next: more trials, and another export.
_MAY_CHANGE = ("search.trials", "export")
# NNI and Optuna have handlers of their own for the terminal.
_LOGGERS = ("dicenas", "nni", "optuna")


def claim_folder(run: RunFolder, settings: Mapping[str, Any]) -> None:
    """Make the run folder, or check that the one there belongs to the same search; keep the settings in it.

    Raises:
        ValueError: The folder belongs to another search; the message says what differs.
    """
    text = yaml.safe_dump(plain(settings), sort_keys=False)
    if run.config_path.is_file():
        try:
            kept = _flat(yaml.safe_load(run.config_path.read_text(encoding="utf-8")))
        except (UnicodeDecodeError, yaml.YAMLError) as error:
            raise ValueError(f"{run.config_path} is damaged: {' '.join(str(error).split())}") from error
        given = _flat(yaml.safe_load(text))
        differences = [
            f"  {key}: {kept.get(key, 'not given')!r} there, {given.get(key, 'not given')!r} now"
            for key in sorted({*kept, *given})
            if kept.get(key) != given.get(key) and not key.startswith(_MAY_CHANGE)
        ]
        if differences:
            raise ValueError(
                f"{run.path} belongs to another search; take another name, or remove the folder:\n"
                + "\n".join(differences)
            )
    elif run.path.exists() and any(run.path.iterdir()):
        raise ValueError(f"{run.path} exists and is no run folder: it has no {run.config_path.name}; take another name")
    run.path.mkdir(parents=True, exist_ok=True)
    atomic_write_text(run.config_path, text)


def open_storage(run: RunFolder) -> RDBStorage:
    """Return the run's Optuna storage; a new one appears with all its tables or not at all.

    Raises:
        ValueError: The storage is damaged, or missing from a run that has trials.
    """
    if not run.storage_path.is_file():
        if numbers := run.trial_numbers():
            raise ValueError(
                f"{run.storage_path} is missing, and without it the run and its {len(numbers)} trials cannot go on; "
                "bring it back, or remove the folder"
            )
        # A process that is killed while it makes the tables would leave some of them, and Optuna would not notice.
        new = run.storage_path.with_name(".study.db.new")
        for path in (new, new.with_name(f"{new.name}-journal")):
            path.unlink(missing_ok=True)
        storage = RDBStorage(f"sqlite:///{new.resolve()}")
        storage.remove_session()
        storage.engine.dispose()
        new.replace(run.storage_path)
    try:
        return RDBStorage(run.storage_url)
    except (DatabaseError, StorageInternalError) as error:
        raise ValueError(f"{run.storage_path} is damaged; bring back a copy, or remove the folder ({error})") from error


@contextmanager
def muted(name: str) -> Iterator[None]:
    """Hold back what a logger says below warnings."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def logs_in(run: RunFolder) -> Iterator[None]:
    """Send what dicenas, NNI and Optuna log to the run's log file instead of the terminal; warnings go to both."""
    file = logging.FileHandler(run.log_path, encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [(logger, logger.handlers[:], logger.level) for logger in loggers]
    terminal = logging.StreamHandler()
    terminal.setLevel(logging.WARNING)
    terminal.setFormatter(logging.Formatter("%(message)s"))
    try:
        for logger in loggers:
            logger.handlers = [file, terminal] if logger.name == "dicenas" else [file]
            logger.setLevel(logging.INFO)
        yield
    finally:
        for logger, handlers, level in before:
            logger.handlers = handlers
            logger.setLevel(level)
        file.close()


@contextmanager
def record_environment(run: RunFolder) -> Iterator[None]:
    """Write versions, device and times of this session to the run's ``environment.json``, at its start and end."""
    started = time.monotonic()
    environment: dict[str, Any] = {
        "started": _now(),
        "finished": None,
        "seconds": None,
        "dicenas": __version__,
        **{package: version(package) for package in ("torch", "torchvision", "nni", "optuna")},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device_name": device_name(torch.device("cpu")),
        "cuda_device_name": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
    }
    atomic_write_text(run.environment_path, json.dumps(environment, indent=2) + "\n")
    yield
    environment |= {"finished": _now(), "seconds": round(time.monotonic() - started, 1)}
    atomic_write_text(run.environment_path, json.dumps(environment, indent=2) + "\n")


def ended_well(run: RunFolder) -> bool:
    """Return whether the last session that added to the run came to its end."""
    try:
        return json.loads(run.environment_path.read_text(encoding="utf-8"))["finished"] is not None
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, keys joined by dots."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flat(item, f"{prefix}.{key}" if prefix else str(key))
    return flat

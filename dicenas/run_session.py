"""What surrounds a search: its hold on the run folder, its log file, the record of its environment."""

from __future__ import annotations

import datetime
import logging
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from dicenas import __version__, locks
from dicenas.config.schema import plain
from dicenas.cost import device_name
from dicenas.files import read_json, write_json
from dicenas.runs import RunFolder

__all__ = [
    "claim_folder",
    "differences",
    "ended_well",
    "lock_folder",
    "logs_in",
    "muted",
    "record_environment",
]

#: Settings that may change from one call to the next: more trials, another time limit, export or final training.
_MAY_CHANGE = ("search.trials", "evaluator.time_limit_s", "export", "final")
# NNI and Optuna have handlers of their own for the terminal.
_LOGGERS = ("dicenas", "nni", "optuna")


def claim_folder(run: RunFolder, settings: Mapping[str, Any]) -> None:
    """Make the run folder, or check that the one there belongs to the same search; keep the settings in it.

    Raises:
        ValueError: The folder belongs to another search; the message says what differs.
    """
    if run.config_path.is_file():
        if found := differences(run.read_config(), settings):
            raise ValueError(
                f"{run.path} belongs to another search; take another name, or remove the folder:\n" + "\n".join(found)
            )
    elif run.path.exists() and any(path.name != locks.LOCK for path in run.path.iterdir()):
        raise ValueError(f"{run.path} exists and is no run folder: it has no {run.config_path.name}; take another name")
    run.path.mkdir(parents=True, exist_ok=True)
    run.write_config(plain(settings))


def differences(kept: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Return in what two searches differ, one line each, save for what may change from one call to the next."""
    there, now = _flat(plain(kept)), _flat(plain(given))
    return [
        f"  {key}: {there.get(key, 'not given')!r} there, {now.get(key, 'not given')!r} now"
        for key in sorted({*there, *now})
        if there.get(key) != now.get(key) and not key.startswith(_MAY_CHANGE)
    ]


def lock_folder(run: RunFolder) -> AbstractContextManager[None]:
    """Keep other searches out of the run folder for as long as this one, or a worker that it copied, lives.

    The folder is made where it is missing, and goes again where nothing else came into it.

    Raises:
        FolderInUseError: Another search is at work in it; the message says which process.
    """
    advice = (
        "let it end, or take another name. More processes for one search: dicenas search --workers, or dicenas worker"
    )
    return locks.lock_folder(run.path, run.config_path, advice)


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
def logs_in(run: RunFolder, *, terminal: bool = True) -> Iterator[None]:
    """Send what dicenas, NNI and Optuna log to the run's log file instead of the terminal.

    Args:
        run: The run.
        terminal: Whether warnings of dicenas go to the terminal too.
    """
    file = logging.FileHandler(run.log_path, encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"))
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [(logger, logger.handlers[:], logger.level) for logger in loggers]
    screen = logging.StreamHandler()
    screen.setLevel(logging.WARNING)
    screen.setFormatter(logging.Formatter("%(message)s"))
    try:
        for logger in loggers:
            logger.handlers = [file, screen] if terminal and logger.name == "dicenas" else [file]
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
        **{package: _version(package) for package in ("torch", "torchvision", "nni", "optuna")},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device_name": device_name(torch.device("cpu")),
        "cuda_device_name": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
    }
    write_json(run.environment_path, environment)
    yield
    environment |= {"finished": _now(), "seconds": round(time.monotonic() - started, 1)}
    write_json(run.environment_path, environment)


def ended_well(run: RunFolder) -> bool:
    """Return whether the last session that added to the run came to its end."""
    try:
        return read_json(run.environment_path)["finished"] is not None
    except (OSError, ValueError, KeyError):
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


def _version(package: str) -> str | None:
    """Return the version of an installed package; the search itself needs no NNI."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None

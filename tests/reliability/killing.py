"""Kills searches at random moments, and counts what came of it."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import optuna
import psutil
from optuna.trial import TrialState

from dicenas.events import read_events
from dicenas.runs import RunFolder

SCRIPT = Path(__file__).with_name("made_up_search.py")
ROOT = Path(__file__).resolve().parents[2]
TICK_S = 0.02
STUCK_S = 1200.0  # without a new result, which a machine that does much else may take minutes for


@dataclass
class Counts:
    """What came of a search that was killed."""

    kills: int = 0
    starts: int = 0
    finished: int = 0
    lost: list[int] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.kills} kills, {self.starts} starts, {self.finished} trials finished: {len(self.lost)} lost, "
            f"{len(self.twice)} evaluated again, {len(self.torn)} torn files read as good"
        )


def made_up_search(folder: Path, trials: int, workers: int, storage: str | None = None) -> list[str]:
    """Command line of a search of microseconds, started from Python."""
    return [
        sys.executable,
        str(SCRIPT),
        str(folder),
        str(trials),
        str(workers),
        *([] if storage is None else [storage]),
    ]


def start(folder: Path, command: list[str]) -> subprocess.Popen[bytes]:
    log = (folder / "output.txt").open("ab")
    return subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=log,
        stderr=log,
    )


def kill_until_done(
    folder: Path,
    command: list[str],
    trials: int,
    kills: int,
    seed: int,
    storage: str | None = None,
    disturb: Callable[[], object] | None = None,
) -> Counts:
    """Run a search to its end, and kill its workers, now and then all of it, while it runs; disturb it before each.

    The run is called ``run`` and lies in the folder.
    """
    rng, counts, run = random.Random(seed), Counts(), RunFolder(folder / "run")
    kept: dict[int, Kept] = {}
    started = time.time()
    process = start(folder, command)
    counts.starts += 1
    try:
        while process.poll() != 0:
            if process.poll() is not None:
                assert process.returncode == -signal.SIGKILL, (folder / "output.txt").read_text()[-3000:]
                process = start(folder, command)
                counts.starts += 1
            note(run, kept, counts)
            latest = max([started, *(first.at for first in kept.values())])
            assert time.time() < latest + STUCK_S, (folder / "output.txt").read_text()[-3000:]
            time.sleep(rng.uniform(0.02, 0.3))
            # Spread over the search, each at a moment of its own.
            if counts.kills >= kills or len(kept) < 0.9 * trials * counts.kills / kills + 1:
                continue
            if disturb is not None:
                disturb()
            if kill_one(process, rng, everything=counts.kills % 5 == 4):
                counts.kills += 1
    finally:
        process.kill()  # its workers end with it
        process.wait()
    note(run, kept, counts)
    settle(run, kept, counts, storage)
    return counts


def kill_one(process: subprocess.Popen[bytes], rng: random.Random, everything: bool) -> bool:
    try:
        children = psutil.Process(process.pid).children()
    except psutil.NoSuchProcess:
        return False
    victims = [process.pid, *(child.pid for child in children)] if everything else [c.pid for c in children]
    if not victims:
        return False
    for victim in victims if everything else [rng.choice(victims)]:
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return True


@dataclass(frozen=True)
class Kept:
    """A result as it was first seen on disk, and when."""

    data: bytes
    at: float


def note(run: RunFolder, kept: dict[int, Kept], counts: Counts) -> None:
    """Note the results that are on disk; whatever happens, they are to stay as they are."""
    for number in run.trial_numbers():
        data = (run.trial_path(number) / "metrics.json").read_bytes()
        try:
            json.loads(data)
        except ValueError:
            counts.torn.append(f"{number}: {data!r}")
        kept.setdefault(number, Kept(data, time.time()))


def settle(run: RunFolder, kept: dict[int, Kept], counts: Counts, storage: str | None) -> None:
    records = {record.number: record for record in run.trials()}
    counts.finished = len(records)
    study = optuna.load_study(study_name="run", storage=storage or run.storage_url)
    told = {trial.number: trial for trial in study.trials}
    for number, first in kept.items():
        path = run.trial_path(number) / "metrics.json"
        same = path.is_file() and accuracy(path.read_bytes()) == accuracy(first.data)
        known = number in told and told[number].state in (TrialState.COMPLETE, TrialState.FAIL)
        if not (same and known and told[number].user_attrs.get("metrics")):
            counts.lost.append(number)
    # Trials of the front are written once more at the end, with what a report shows of them.
    written = {
        record.architecture.hash: min(kept[number].at, (run.trial_path(number) / "metrics.json").stat().st_mtime)
        for number, record in records.items()
    }
    for event in read_events(run.events_path.read_bytes()):
        if event["event"] != "trial_started":
            continue
        # What was killed near the end may never finish: others had filled the number of trials. What had finished and
        # is gone is among the lost. Times of files are those of the system's last tick.
        if event["time"] > written.get(event["architecture"], math.inf) + TICK_S:
            counts.twice.append(event["architecture"])
    several = Counter(record.architecture.hash for record in records.values())
    counts.twice += [architecture for architecture, times in several.items() if times > 1]


def accuracy(data: bytes) -> object:
    return json.loads(data)["accuracy"]

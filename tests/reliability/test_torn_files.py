"""Files of a run that were cut off: none is read as good."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dicenas.architecture import Architecture
from dicenas.nets import build
from dicenas.report.summary import RunSummary
from dicenas.runs import RunFolder, TrialRecord
from dicenas.workers.events import EventLog, read_events

BLOCK = 512  # the smallest that a disk writes at once

SMALL = Architecture("shufflenetv2", 0.1, (("separable_k3",) * 2,) * 3, "small", (16, 16), 4)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    run = RunFolder(tmp_path_factory.mktemp("runs") / "run")
    run.path.mkdir()
    run.write_config(
        {"name": "run", "objectives": {"accuracy": "maximize"}, "notes": {f"key {n}": n for n in range(80)}}
    )
    run.write_trial(
        TrialRecord(0, SMALL, "complete", {"accuracy": 0.5, **{f"metric_{n}": float(n) for n in range(80)}})
    )
    run.write_weights(0, build(SMALL).state_dict())
    return run


READERS: dict[str, Callable[[RunFolder], object]] = {
    "config.yaml": RunSummary.read,
    "trials/0/architecture.json": RunFolder.trials,
    "trials/0/metrics.json": RunFolder.trials,
    "trials/0/weights.safetensors": lambda run: run.load_network(0),
}


def refusal(read: Callable[[RunFolder], object], run: RunFolder) -> str | None:
    try:
        read(run)
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("rest", ["cut", "zeros"])
def test_a_file_without_its_end_is_damaged(run: RunFolder, name: str, rest: str) -> None:
    """Cut off at every block, and with zeros instead, as some file systems leave a file after a loss of power."""
    path, read = run.path / name, READERS[name]
    whole = path.read_bytes()
    read(run)
    good = []
    for length in range(0, len(whole), BLOCK):
        path.write_bytes(whole[:length] + (b"" if rest == "cut" else bytes(len(whole) - length)))
        if (error := refusal(read, run)) is None:
            good.append(length)
        else:
            assert path.name in error
    path.write_bytes(whole)
    read(run)
    assert good == []


def test_a_changed_byte_in_the_weights_is_noticed(run: RunFolder) -> None:
    path = run.weights_path(0)
    whole = path.read_bytes()
    path.write_bytes(whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:])
    with pytest.raises(ValueError, match="checksum is that of other tensors"):
        run.load_network(0)
    path.write_bytes(whole)


def test_a_log_goes_on_behind_a_line_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    for trial in range(3):
        EventLog(path).write("trial_started", trial=trial)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        EventLog(path).write("trial_started", trial=9)
        trials = [event["trial"] for event in read_events(path.read_bytes())]
        lines = whole[:length].count(b"\n")
        assert trials in ([*range(lines), 9], [*range(lines + 1), 9])  # the last line may lack its end alone

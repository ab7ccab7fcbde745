"""Files of ours that were cut off, or of which a bit has changed: none is read as good."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import torch

from dicenas.architecture import Architecture
from dicenas.cost import LatencySettings
from dicenas.cost.build import BuildPlan, build_table
from dicenas.cost.table import LatencyTable
from dicenas.evaluation import checkpoint, proxy_evaluator
from dicenas.evaluation.supernet import checkpoint as supernet
from dicenas.events import EventLog, read_events
from dicenas.export import export_network, read_exported
from dicenas.files import write_json
from dicenas.nets import Network, build
from dicenas.report.summary import RunSummary
from dicenas.run_session import record_environment
from dicenas.runs import RunFolder, TrialRecord
from dicenas.space import SpaceSpec
from dicenas.training.records import TrainFolder
from dicenas.workers.storage import open_study_db
from tests.reliability.tally import Tally

BLOCK = 512  # the smallest that a disk writes at once

SMALL = Architecture("shufflenetv2", 0.1, (("separable_k3",) * 2,) * 3, "small", (16, 16), 4)
OBJECTIVES = {"accuracy": "maximize"}
SUPERNET = {"space": "abc", "epochs": 2}
PROXIES = {"schema_version": 1, "space": "abc"}


def weights(network: Network) -> dict[str, list[float]]:
    return {name: tensor.tolist() for name, tensor in network.state_dict().items()}


def supernet_state(folder: Path) -> object:
    state = supernet.read_checkpoint(folder / "supernet.safetensors", SUPERNET)
    return state.step, state.weights["stem"].tolist(), state.order.tolist()


def exported(folder: Path) -> object:
    export = read_exported(folder / "export")
    return weights(export.network), export.metrics, export.class_names, export.normalization


def half_trained(folder: Path) -> object:
    identity, state = checkpoint.read_checkpoint(TrainFolder(folder / "train").checkpoint_path)
    return identity, state["weights"].tolist()


#: Who reads a file back, of all that a search, a training and an export leave in their folders.
READERS: dict[str, Callable[[Path], object]] = {
    "config.yaml": lambda folder: RunSummary.read(RunFolder(folder)).config,
    "environment.json": lambda folder: RunSummary.read(RunFolder(folder)).environment["finished"],
    "trials/0/architecture.json": lambda folder: RunFolder(folder).trials(),
    "trials/0/metrics.json": lambda folder: RunFolder(folder).trials(),
    "trials/0/weights.safetensors": lambda folder: weights(RunFolder(folder).load_network(0)),
    "export/architecture.json": exported,
    "export/metrics.json": exported,
    "export/model.py": exported,
    "export/model.safetensors": exported,
    "latency_table.json": lambda folder: LatencyTable.load(folder / "latency_table.json"),
    "proxies.json": lambda folder: proxy_evaluator._read(folder / "proxies.json", PROXIES, ["naswot"]),
    "supernet.safetensors": supernet_state,
    "train/training.json": lambda folder: TrainFolder(folder / "train").read_identity(),
    "train/result.json": lambda folder: TrainFolder(folder / "train").read_result(),
    "train/checkpoint.pt": half_trained,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of each kind, written by what writes it."""
    folder = tmp_path_factory.mktemp("files")
    run, training, network = RunFolder(folder), TrainFolder(folder / "train"), build(SMALL)
    many = {f"metric_{n}": float(n) for n in range(80)}
    run.write_config({"name": "run", "objectives": OBJECTIVES, "notes": many})
    with record_environment(run):
        run.write_trial(TrialRecord(0, SMALL, "complete", {"accuracy": 0.5, **many}))
    run.write_weights(0, network.state_dict())
    export_network(
        network,
        run.export_path,
        ("py", "safetensors"),
        metrics=many,
        class_names=["cat", "dog", "newt", "owl"],
        normalization=((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
    )
    space = SpaceSpec("shufflenetv2", ("dice_k3",), (0.1,), ((1,), (1,), (1,)), ("small",), (16,), 4)
    plan = BuildPlan(contexts=1, time_limit_s=0)
    build_table(space, LatencySettings(threads=1), folder / "latency_table.json", plan=plan)
    scores = {f"{n:016x}": {"naswot": n / 7} for n in range(40)}
    write_json(folder / "proxies.json", {**PROXIES, "scores": scores})
    tensor = torch.arange(600.0)
    state = supernet.TrainingState(3, {"stem": tensor}, {"stem": -tensor}, torch.arange(50), torch.arange(50))
    supernet.write_checkpoint(folder / "supernet.safetensors", SUPERNET, state)
    training.path.mkdir()
    training.claim({"architecture": SMALL.to_dict(), "recipe": many})
    training.write_result({"accuracy": 0.5, **many})
    checkpoint.write_checkpoint(training.checkpoint_path, {"recipe": many}, {"weights": tensor})
    return folder


def test_every_file_with_contents_of_ours_is_among_them(folder: Path) -> None:
    """What nothing reads back may be torn: pictures, tables and pages for people, and the checksums themselves."""
    for_people = {"export/README.md", "export/SHA256SUMS"}
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files - for_people == READERS.keys()


def attempt(read: Callable[[], object]) -> tuple[str | None, object]:
    """Return why a file was refused, and what was read of it."""
    try:
        return None, read()
    except ValueError as error:
        return str(error), None


def read_as_good(folder: Path, name: str, damaged: Callable[[bytes], list[bytes]]) -> tuple[int, list[int]]:
    """Return of how many damaged files which were read, with something else in them than there was."""
    path, read = folder / name, READERS[name]
    whole = path.read_bytes()
    content = read(folder)
    variants = damaged(whole)
    good = []
    try:
        for number, variant in enumerate(variants):
            path.write_bytes(variant)
            refused, found = attempt(lambda: read(folder))
            assert refused is None or path.name in refused, refused
            if refused is None and found != content:
                good.append(number)
    finally:
        path.write_bytes(whole)
    assert read(folder) == content
    return len(variants), good


def cut(whole: bytes) -> list[bytes]:
    return [whole[:length] for length in range(0, len(whole), BLOCK)]


def zeros(whole: bytes) -> list[bytes]:
    """As some file systems leave a file after a loss of power."""
    return [whole[:length] + bytes(len(whole) - length) for length in range(0, len(whole), BLOCK)]


def flipped(whole: bytes) -> list[bytes]:
    """One bit is another: in each of the first bytes, where most formats have their headers, and in each block."""
    rng = Random(0)
    in_blocks = {rng.randrange(start, min(start + BLOCK, len(whole))) for start in range(0, len(whole), BLOCK)}
    places = sorted({*range(min(len(whole), 300)), *in_blocks})
    return [whole[:n] + bytes([whole[n] ^ (1 << rng.randrange(8))]) + whole[n + 1 :] for n in places]


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("damaged", [cut, zeros, flipped], ids=lambda each: each.__name__)
def test_a_damaged_file_is_not_read_as_good(
    folder: Path, name: str, damaged: Callable[[bytes], list[bytes]], tally: Tally
) -> None:
    files, good = read_as_good(folder, name, damaged)
    tally(damaged=files, torn=len(good))
    assert good == []


def test_a_database_that_was_cut_off_is_damaged(tmp_path: Path, tally: Tally) -> None:
    run = RunFolder(tmp_path)
    storage = open_study_db(run)
    storage.remove_session()
    storage.engine.dispose()
    whole = run.storage_path.read_bytes()
    good = []
    lengths = range(BLOCK, len(whole), 4 * BLOCK)
    for length in lengths:
        for left in tmp_path.glob("study.db-*"):
            left.unlink()
        run.storage_path.write_bytes(whole[:length])
        refused, _ = attempt(lambda: open_study_db(run))
        assert refused is None or "study.db is damaged" in refused
        good += [length] if refused is None else []
    tally(damaged=len(lengths), torn=len(good))
    assert good == []


def test_a_changed_byte_in_the_weights_is_noticed(folder: Path) -> None:
    run = RunFolder(folder)
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

"""A whole search: trials, resuming, interruptions, failures, bounds that steer, real images."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
import yaml
from torch import nn

import dicenas
from dicenas.architecture import Architecture
from dicenas.config import SearchConfig, parse_config
from dicenas.evaluation import DataConfig, Evaluator, load_data
from dicenas.nets import architecture_cost
from dicenas.runs import RunFolder
from dicenas.search import Report, run_search, search
from dicenas.space import SpaceSpec
from dicenas.strategies import InfeasibleConstraintError

SPACE = SpaceSpec(
    "shufflenetv2",
    ops=("separable_k3", "separable_k5", "dice_k3", "skip"),
    widths=(0.1, 0.2),
    depths=((1, 2), (1,), (1,)),
    stems=("small",),
    resolutions=(32,),
    num_classes=4,
)


#: What a second call must leave as it is, beside the weights.
KEPT = {".json", ".yaml", ".csv", ".html", ".safetensors"}


def macs_accuracy(architecture: Architecture, net: nn.Module, report: Report) -> dict[str, float]:
    """A made-up accuracy that grows with the network: what a bound on latency must trade."""
    report(1, {"accuracy": 0.1})
    return {"accuracy": 1 - 1e5 / architecture_cost(architecture).macs}


def params_latency(architecture: Architecture) -> float:
    return architecture_cost(architecture).params / 1e4


def run(tmp_path: Path, evaluate: Any = macs_accuracy, **changes: Any) -> Any:
    arguments = {"trials": 6, "latency": params_latency, "name": "run", "out": tmp_path, **changes}
    return search(SPACE, evaluate, **arguments)


def counting(evaluate: Callable[..., dict[str, float]] = macs_accuracy) -> tuple[list[str], Any]:
    seen: list[str] = []

    def counted(architecture: Architecture, net: nn.Module, report: Report) -> Mapping[str, float]:
        seen.append(architecture.hash)
        return evaluate(architecture, net, report)

    return seen, counted


def test_run_folder(tmp_path: Path) -> None:
    result = run(tmp_path)
    folder = tmp_path / "run"
    assert result.new_trials == 6
    assert len(result.run.trials()) == 6
    assert {path.name for path in folder.iterdir()} == {
        ".lock",
        "config.yaml",
        "environment.json",
        "events.jsonl",
        "log.txt",
        "pareto.csv",
        "report.html",
        "study.db",
        "trials",
    }
    for trial in result.run.trials():
        assert {path.name for path in result.run.trial_path(trial.number).iterdir()} == {
            "architecture.json",
            "metrics.json",
            "weights.safetensors",
        }
        assert trial.architecture in SPACE
        assert trial.metrics["macs"] == SPACE.cost(trial.architecture).macs
        net = result.run.load_network(trial.number)
        assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 4)
    metrics = json.loads((folder / "trials" / str(result.best.number) / "metrics.json").read_text())
    assert metrics["accuracy"] == max(trial.metrics["accuracy"] for trial in result.run.trials())
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["torch"] == torch.__version__.split("+")[0]
    assert environment["seconds"] > 0
    assert "trial 0 complete" in (folder / "log.txt").read_text()
    assert (folder / "pareto.csv").read_text().startswith("trial,architecture,accuracy,latency_ms")


def test_a_second_run_adds_nothing_and_more_trials_add_the_rest(tmp_path: Path) -> None:
    seen, evaluate = counting()
    run(tmp_path, evaluate)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.suffix in KEPT}
    again = run(tmp_path, evaluate)
    assert again.new_trials == 0
    assert {path: path.read_bytes() for path in before} == before
    more = run(tmp_path, evaluate, trials=9)
    assert more.new_trials == 3
    assert len(seen) == len(set(seen)) == 9


def test_same_seed_same_search(tmp_path: Path) -> None:
    first, evaluate_first = counting()
    second, evaluate_second = counting()
    run(tmp_path, evaluate_first)
    run(tmp_path, evaluate_second, name="twin")
    assert first == second
    weights = [RunFolder(tmp_path / name).weights_path(0).read_bytes() for name in ("run", "twin")]
    assert weights[0] == weights[1]


def test_latency_steers(tmp_path: Path) -> None:
    free = run(tmp_path, trials=10, name="free")
    bound = sorted(trial.metrics["latency_ms"] for trial in free.run.trials())[2]
    tight = run(tmp_path, trials=10, name="tight", constraints={"latency_ms": bound})
    assert free.best.metrics["latency_ms"] > bound
    assert all(trial.metrics["latency_ms"] <= bound for trial in tight.run.trials())
    assert tight.best.architecture != free.best.architecture


def test_measured_latency_is_kept_with_its_spread(tmp_path: Path) -> None:
    result = run(tmp_path, latency=None, trials=2)
    for trial in result.run.trials():
        assert trial.metrics["latency_p25_ms"] <= trial.metrics["latency_ms"] <= trial.metrics["latency_p75_ms"]
    assert all(trial.metrics["latency_eager_ms"] > 0 for trial in result.front)


def test_latency_is_not_measured_where_nobody_asks(tmp_path: Path) -> None:
    def forbidden(architecture: Architecture) -> float:
        raise AssertionError("latency was asked for")

    result = run(tmp_path, latency=forbidden, objectives=("accuracy", "macs"), trials=2)
    assert result.new_trials == 2


def test_failures_are_recorded_and_the_search_goes_on(tmp_path: Path) -> None:
    calls = []

    def sometimes(architecture: Architecture, net: nn.Module, report: Report) -> dict[str, float]:
        calls.append(architecture)
        if len(calls) == 1:
            raise RuntimeError("out of luck")
        return {"accuracy": float("nan") if len(calls) == 2 else 0.5}

    result = run(tmp_path, sometimes, trials=4)
    states = [(trial.state, trial.error) for trial in result.run.trials()]
    assert states[0] == ("failed", "RuntimeError: out of luck")
    assert states[1] == ("failed", "accuracy is nan")
    assert [state for state, _ in states[2:]] == ["complete", "complete"]
    assert "out of luck" in (tmp_path / "run" / "log.txt").read_text()
    assert run(tmp_path, sometimes, trials=4).new_trials == 0


def test_metrics_of_another_kind_fail_their_trial(tmp_path: Path) -> None:
    result = run(tmp_path, lambda architecture, net, report: {"acc": 0.5}, trials=1)
    [trial] = result.run.trials()
    assert trial.state == "failed"
    assert "accuracy" in str(trial.error)


class Table(Evaluator):
    """Looks up what an architecture is worth, and knows one cost before."""

    trains_network = False

    def __init__(self) -> None:
        self.prepared: list[Path] = []

    @property
    def costs(self) -> Mapping[str, Callable[[Architecture], float]]:
        return {"latency_ms": params_latency}

    def prepare(self, folder: Path) -> None:
        self.prepared.append(folder)
        (folder / "table.txt").write_text("ready")

    def __call__(self, architecture: Architecture, net: nn.Module, report: Report) -> dict[str, float]:
        return macs_accuracy(architecture, net, report)


def test_an_evaluator_that_trains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(architecture: Architecture) -> nn.Module:
        raise AssertionError("a network was built")

    monkeypatch.setattr("dicenas.workers.network.build", forbidden)
    evaluator = Table()
    result = run(tmp_path, evaluator, trials=3, constraints={"latency_ms": 7.2}, latency=None)
    folder = tmp_path / "run" / "evaluator"
    assert evaluator.prepared == [folder]
    assert (folder / "table.txt").read_text() == "ready"
    for trial in result.run.trials():
        assert trial.metrics["latency_ms"] == params_latency(trial.architecture) <= 7.2
        assert not result.run.weights_path(trial.number).exists()
    log = (tmp_path / "run" / "log.txt").read_text()
    assert re.search(r"proposals: 3 evaluated; drawn again: \d+ infeasible, \d+ known already", log)
    run(tmp_path, evaluator, trials=3, constraints={"latency_ms": 7.2}, latency=None)
    assert evaluator.prepared == [folder]


def test_what_was_reported_last_is_the_result_of_a_trial_that_ends_at_a_rung(tmp_path: Path) -> None:
    calls: list[int] = []

    def evaluate(architecture: Architecture, net: nn.Module, report: Report) -> dict[str, float]:
        calls.append(0)
        for epoch in range(1, 5):
            calls[-1] = epoch
            report(epoch, {"accuracy": epoch / 10 - len(calls) / 100})
        return {"accuracy": 0.9, "epochs": 4}

    result = run(tmp_path, evaluate, trials=4, objectives=("accuracy",), rungs=(1, 2), reduction_factor=4)
    assert calls == [4, 1, 1, 1]
    kept = [(trial.state, trial.metrics["accuracy"], trial.metrics["epochs"]) for trial in result.run.trials()]
    assert kept[0] == ("complete", 0.9, 4)
    assert kept[1] == ("complete", pytest.approx(0.08), 1)
    with pytest.raises(ValueError, match=r"rungs \[2, 1\]"):
        run(tmp_path, evaluate, name="other", rungs=(2, 1))


def test_a_search_begins_with_known_networks(tmp_path: Path) -> None:
    known = next(iter(SPACE.enumerate()))
    result = run(tmp_path, trials=2, first=[known])
    assert result.run.read_trial(0).architecture == known
    with pytest.raises(ValueError, match="dicenet_100 is not a point of this shufflenetv2 space"):
        run(tmp_path, name="other", first=["dicenet_100"])


def test_two_searches_in_one_folder(tmp_path: Path) -> None:
    said: list[str] = []

    def evaluate(architecture: Architecture, net: nn.Module, report: Report) -> dict[str, float]:
        with pytest.raises(ValueError, match="is in use") as refused:
            run(tmp_path, trials=1)
        said.append(str(refused.value))
        return macs_accuracy(architecture, net, report)

    run(tmp_path, evaluate, trials=1)
    assert said[0].startswith(f"{tmp_path / 'run'} is in use by process {os.getpid()} on ")
    run(tmp_path, trials=2)


def test_interrupted_search_goes_on(tmp_path: Path) -> None:
    seen, evaluate = counting()

    def interrupted(architecture: Architecture, net: nn.Module, report: Report) -> Mapping[str, float]:
        if len(seen) == 2:
            raise KeyboardInterrupt
        return evaluate(architecture, net, report)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, interrupted)
    assert len(RunFolder(tmp_path / "run").trials()) == 2
    result = run(tmp_path, evaluate)
    assert result.new_trials == 4
    assert len(seen) == len(set(seen)) == 6
    assert len(result.run.trials()) == 6


def test_a_result_on_disk_that_optuna_did_not_hear_of_is_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, evaluate = counting()
    tell = optuna.Study.tell

    def killed(self: optuna.Study, *args: Any, **kwargs: Any) -> Any:
        if len(seen) == 3:
            raise KeyboardInterrupt
        return tell(self, *args, **kwargs)

    monkeypatch.setattr(optuna.Study, "tell", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, evaluate)
    monkeypatch.undo()
    assert len(RunFolder(tmp_path / "run").trials()) == 3
    result = run(tmp_path, evaluate)
    assert len(seen) == len(set(seen)) == 6
    assert len(result.run.trials()) == 6


def test_a_killed_search_goes_on(tmp_path: Path) -> None:
    script = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
from pathlib import Path
import dicenas
from dicenas.space import SpaceSpec
space = SpaceSpec(**{SPACE.to_dict()!r})
def evaluate(architecture, net, report):
    with open({str(tmp_path / "seen.txt")!r}, "a") as file:
        print(architecture.hash, file=file, flush=True)
    time.sleep(0.2)
    return {{"accuracy": 0.5}}
dicenas.search(space, evaluate, objectives=("accuracy", "macs"), trials=8, name="run", out={str(tmp_path)!r})
"""
    process = subprocess.Popen([sys.executable, "-c", script])
    folder = RunFolder(tmp_path / "run")
    deadline = time.monotonic() + 120
    while len(folder.trial_numbers()) < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    finished = {trial.architecture.hash for trial in folder.trials()}
    subprocess.run([sys.executable, "-c", script], check=True)
    assert len(folder.trials()) == 8
    seen = (tmp_path / "seen.txt").read_text().split()
    assert all(seen.count(architecture) == 1 for architecture in finished)


def test_a_run_folder_of_another_search_is_refused(tmp_path: Path) -> None:
    run(tmp_path, trials=1)
    before = (tmp_path / "run" / "config.yaml").read_bytes()
    with pytest.raises(ValueError, match=r"belongs to another search.*\n.*search\.seed: 0 there, 1 now"):
        run(tmp_path, seed=1)
    assert (tmp_path / "run" / "config.yaml").read_bytes() == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="is no run folder"):
        run(tmp_path, name="mine")


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"trials": 0}, ValueError, "trials 0"),
        ({"sampler": "tpee"}, ValueError, "did you mean 'tpe'"),
        ({"objectives": ("acuracy",)}, ValueError, "did you mean 'accuracy'"),
        ({"constraints": {"energy": 1}}, ValueError, "energy"),
        ({"constraints": {"macs": 10}}, InfeasibleConstraintError, f"{SPACE.minimum('macs'):,}"),
        ({"constraints": {"latency_ms": 1e-9}}, InfeasibleConstraintError, r"latency_ms .* \(smallest value seen"),
        ({"constraints": {"peak_memory_mb": 1e-3}}, InfeasibleConstraintError, r"0.001 \(smallest value seen 0\."),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, dict) else None,
)
def test_wrong_arguments_write_nothing(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        run(tmp_path, **changes)
    assert not list(tmp_path.iterdir())


def test_a_session_killed_while_it_made_the_storage_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Path.replace

    def interrupted(source: Path, target: Path) -> Path:
        if target.name == "study.db":
            raise KeyboardInterrupt
        return replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
    assert not (tmp_path / "run" / "study.db").exists()
    # Tables without their index, as a kill would leave: Optuna takes them and makes studies of the same name.
    with sqlite3.connect(tmp_path / "run" / ".study.db.new") as database:
        database.execute("DROP INDEX ix_studies_study_name")
    run(tmp_path, trials=1)
    assert run(tmp_path, trials=2).new_trials == 1
    assert len(optuna.get_all_study_names(RunFolder(tmp_path / "run").storage_url)) == 1


def test_a_session_killed_after_its_last_trial_is_completed(tmp_path: Path) -> None:
    folder = run(tmp_path).run
    front, report = folder.path / "pareto.csv", folder.report_path
    expected = front.read_text()
    environment = json.loads(folder.environment_path.read_text())
    folder.environment_path.write_text(json.dumps({**environment, "finished": None}))
    front.unlink()
    report.unlink()
    assert run(tmp_path).new_trials == 0
    assert front.read_text() == expected
    assert report.is_file()
    assert json.loads(folder.environment_path.read_text())["finished"]


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("study.db", None, "study.db is missing, and without it the run and its 1 trials"),
        ("study.db", "garbage", "study.db is damaged"),
        ("config.yaml", "[1,", "config.yaml is damaged"),
    ],
)
def test_a_damaged_run_folder_is_refused_with_what_to_do(
    tmp_path: Path, file: str, content: str | None, said: str
) -> None:
    path = run(tmp_path, trials=1).run.path / file
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=said):
        run(tmp_path, trials=2)


def test_spaces_by_name_and_as_nni_space(tmp_path: Path) -> None:
    from dicenas.search_spaces import make_space

    result = search(make_space(SPACE), macs_accuracy, ("accuracy",), trials=1, name="nni", out=tmp_path)
    assert result.best.architecture in SPACE
    assert dicenas.search is search


def cifar(root: Path, reference: Path, images: int) -> Path:
    """Unpack some real CIFAR-10 images of each class."""
    for part in ("train", "test"):
        with zipfile.ZipFile(reference / "data" / f"cifar10-{part}.zip") as archive:
            names = [name for name in archive.namelist() if name.endswith(".jpg")]
            for label in ("cat", "ship", "frog"):
                chosen = [name for name in names if name.startswith(f"{label}/")][: images // 3]
                archive.extractall(root / part, chosen)
    return root


def test_from_configuration_to_exported_network_on_real_images(
    tmp_path: Path, reference: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = cifar(tmp_path / "images", reference, images=240)
    config: SearchConfig = parse_config(
        {
            "name": "cifar",
            "space": {
                "backbone": "shufflenetv2",
                "ops": ["separable_k3", "dice_k3"],
                "widths": [0.1, 0.2],
                "depths": [[1], [1], [1]],
            },
            "data": {"dataset": "imagefolder", "root": str(root), "image_size": 32},
            "evaluator": {"kind": "train", "epochs": 2, "batch": 16, "threads": 1},
            "constraints": {"macs": "10.0e6"},
            "latency": {"input_size": 64},
            "search": {"sampler": "random", "trials": 3, "seed": 1},
        }
    )
    result = run_search(config, tmp_path / "runs")
    assert len(result.run.trials()) == 3
    for trial in result.run.trials():
        assert trial.state == "complete"
        assert trial.architecture.num_classes == 3
        assert trial.metrics["macs"] == architecture_cost(trial.architecture.at_size(64)).macs <= 10e6
    exported = result.run.export_path
    assert {path.name for path in exported.iterdir()} >= {"model.py", "model.safetensors", "architecture.json"}
    assert Architecture.load(exported / "architecture.json") == result.best.architecture
    assert result.run.report_path.stat().st_size > 10_000
    kept = yaml.safe_load(result.run.config_path.read_text())
    assert parse_config(kept) == config
    # What was trained is what was exported: the weights give the accuracy that was reported.
    from dicenas.evaluation import evaluate

    data = load_data(DataConfig("imagefolder", root, 32))
    accuracy = evaluate(result.run.load_network(result.best.number), data)["accuracy"]
    assert accuracy == pytest.approx(result.best.metrics["accuracy"])
    again = run_search(config, tmp_path / "runs")
    assert again.new_trials == 0
    # Another export is taken from the trials that are there.
    other = min({0, 1, 2} - {result.best.number})
    changed = parse_config({**kept, "export": {"trial": other, "formats": ["py"]}})
    assert run_search(changed, tmp_path / "runs").new_trials == 0
    assert Architecture.load(exported / "architecture.json") == result.run.read_trial(other).architecture
    assert not (exported / "model.safetensors").exists()
    assert "may never have it" not in caplog.text
    with pytest.raises(FileNotFoundError, match="no finished trial 99"):
        run_search(parse_config({**kept, "export": {"trial": 99}}), tmp_path / "runs")
    assert "export.trial 99: a search of 3 trials may never have it" in caplog.text

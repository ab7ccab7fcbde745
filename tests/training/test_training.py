from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dicenas.architecture import Architecture
from dicenas.evaluation import DataConfig, TrainingDiverged
from dicenas.evaluation.checkpoint import read_checkpoint
from dicenas.locks import FolderInUseError
from dicenas.nets import build
from dicenas.training import Recipe, TeacherConfig, get_recipe, open_data, train
from dicenas.training.image_sets import Plan
from dicenas.training.optimization import CheckpointedNetwork, make_optimizer, make_schedule
from dicenas.training.processes import Processes
from dicenas.training.scores import Scores
from dicenas.training.teacher import distillation_loss
from dicenas.training.trainer import Trainer

ROOT = Path(__file__).resolve().parent.parent.parent

# All that draws random numbers or keeps a state is in it.
FULL = get_recipe(
    "short",
    epochs=2,
    batch=24,
    micro_batch=12,
    warmup_epochs=0.5,
    crop="resized",
    rand_augment=5,
    mixup=0.2,
    label_smoothing=0.1,
    ema_decay=0.99,
)
FEW = get_recipe("short", epochs=1, batch=24)


def weights(folder: Path) -> dict[str, Tensor]:
    _, state = read_checkpoint(folder / "checkpoint.pt")
    return {**state["net"], **{f"ema.{name}": value for name, value in (state["ema"] or {}).items()}}


def assert_equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not first[name].equal(second[name])] == []


def without_seconds(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name != "train_seconds"}


class Interrupted(Exception):  # noqa: N818
    pass


def test_a_training_that_was_interrupted_ends_as_if_it_had_not_been(
    tiny: Architecture, forms: dict[str, Path], tmp_path: Path
) -> None:
    def interrupt(epoch: int, metrics: Mapping[str, float]) -> None:
        raise Interrupted

    options: dict[str, Any] = {"device": "cpu", "workers": 0, "formats": ()}
    whole = train(tiny, forms["tars"], FULL, tmp_path / "whole", **options)
    broken = tmp_path / "broken"
    with pytest.raises(Interrupted):
        train(tiny, forms["tars"], FULL, broken, report=interrupt, **options)
    seen: list[int] = []
    result = train(tiny, forms["tars"], FULL, broken, report=lambda epoch, _: seen.append(epoch), **options)
    assert seen == [2]
    assert without_seconds(result.metrics) == without_seconds(whole.metrics)
    assert_equal(weights(broken), weights(tmp_path / "whole"))
    for name in ("confusion.csv", "training.json"):
        assert (broken / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    rows = list(csv.DictReader((broken / "metrics.csv").open(encoding="utf-8")))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    # Called once more, a finished training is read, not done again.
    before = (broken / "checkpoint.pt").stat().st_mtime_ns
    assert train(tiny, forms["tars"], FULL, broken, **options).metrics == result.metrics
    assert (broken / "checkpoint.pt").stat().st_mtime_ns == before


KILLED = """
import sys
from pathlib import Path
from dicenas.architecture import Architecture
from dicenas.training import Recipe, train
import json
architecture, recipe, data, out = sys.argv[1:]
train(
    Architecture.from_json(architecture), data, Recipe(**json.loads(recipe)), out,
    device="cpu", threads=1, workers=0, checkpoint_seconds=0,
)
"""


def test_a_training_that_was_killed_goes_on_to_the_same_weights(
    tiny: Architecture, forms: dict[str, Path], tmp_path: Path
) -> None:
    recipe = FULL.replace(epochs=3)
    data, out = forms["zips"], tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, tiny.to_json(), json.dumps(recipe.to_dict()), str(data), str(out)]
    process = subprocess.Popen(command, cwd=ROOT)
    checkpoint = out / "checkpoint.pt"
    deadline = time.monotonic() + 300
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    _, state = read_checkpoint(checkpoint)  # whole, whenever the kill came
    assert state["epoch"] < recipe.epochs
    subprocess.run(command, cwd=ROOT, check=True)
    train(tiny, data, recipe, tmp_path / "whole", device="cpu", threads=1, workers=0, formats=())
    assert_equal(weights(out), weights(tmp_path / "whole"))
    exported = load_file(out / "export" / "model.safetensors")
    averaged = {name.removeprefix("ema."): value for name, value in weights(out).items() if name.startswith("ema.")}
    assert_equal(exported, averaged)
    assert json.loads((out / "export" / "metrics.json").read_text(encoding="utf-8"))["epochs"] == 3


def test_two_processes_train_as_one_that_accumulates(
    tiny: Architecture, forms: dict[str, Path], tmp_path: Path
) -> None:
    recipe = get_recipe("short", epochs=1, batch=24, micro_batch=12, crop="center", flip=False, warmup_epochs=0.0)
    train(tiny, forms["zips"], recipe, tmp_path / "one", device="cpu", threads=1, workers=0, formats=())
    script = tmp_path / "script.py"
    script.write_text(KILLED.replace("checkpoint_seconds=0", "formats=()"), encoding="utf-8")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    arguments = [tiny.to_json(), json.dumps(recipe.to_dict()), str(forms["zips"]), str(tmp_path / "two")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([*torchrun, *arguments], cwd=ROOT, env=environment, check=True, capture_output=True)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert one.keys() == two.keys()
    for name in one:
        # The running statistics of two processes are those of the first one's images.
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-5)
    results = [json.loads((tmp_path / name / "result.json").read_text(encoding="utf-8")) for name in ("one", "two")]
    assert results[0].keys() == results[1].keys()
    with (tmp_path / "two" / "confusion.csv").open(encoding="utf-8") as file:
        counts = [sum(map(int, row[1:])) for row in list(csv.reader(file))[1:]]
    assert counts == [6, 6, 6, 6]  # every validation image once
    with pytest.raises(ValueError, match="processes: 2 there, 1 asked for"):
        train(tiny, forms["zips"], recipe, tmp_path / "two", device="cpu", workers=0)


def trainer(net: torch.nn.Module, recipe: Recipe, data: Path) -> Trainer:
    plan = Plan(recipe.seed, recipe.micro_batch or recipe.batch)
    opened = open_data(data, recipe, 16)
    return Trainer(net, opened, recipe, plan, Processes(torch.device("cpu")))  # type: ignore[arg-type]


def test_digits_are_learnt(tiny: Architecture, forms: dict[str, Path]) -> None:
    recipe = get_recipe("short", epochs=8, batch=12, crop="center", flip=False)
    torch.manual_seed(0)
    training = trainer(build(tiny), recipe, forms["folders"])
    while training.epoch < recipe.epochs:
        for _ in training.run_epoch():
            pass
    assert training.history[-1]["accuracy"] > 0.7
    assert training.history[-1]["top5_accuracy"] == 1
    assert training.history[-1]["train_loss"] < training.history[0]["train_loss"] / 2
    assert int(training.scores.confusion.sum()) == 24


def test_a_training_that_diverges_says_so(tiny: Architecture, forms: dict[str, Path], tmp_path: Path) -> None:
    recipe = FEW.replace(learning_rate=1e30, max_grad_norm=None, warmup_epochs=0.0)
    with pytest.raises(TrainingDiverged, match="lower the learning rate"):
        train(tiny, forms["zips"], recipe, tmp_path / "out", device="cpu", workers=0)
    assert not (tmp_path / "out" / "checkpoint.pt").exists()


def test_gradient_checkpointing_changes_nothing(tiny: Architecture) -> None:
    nets = []
    images = torch.randn(4, 3, 16, 16)
    for wrapped in (False, True):
        torch.manual_seed(0)
        net = build(tiny).train()
        forward = CheckpointedNetwork(net) if wrapped else net
        forward(images).square().sum().backward()
        nets.append(net)
    plain, kept = nets
    assert_equal(plain.state_dict(), kept.state_dict())  # running statistics, and how often they were updated
    for (name, parameter), other in zip(plain.named_parameters(), kept.parameters(), strict=True):
        assert parameter.grad is not None, name
        torch.testing.assert_close(parameter.grad, other.grad)
    assert {module.momentum for module in kept.modules() if isinstance(module, torch.nn.BatchNorm2d)} == {0.1}


def test_learning_rates_rise_and_fall() -> None:
    def rates(recipe: Recipe) -> list[float]:
        optimizer = make_optimizer(torch.nn.Linear(2, 2), recipe)
        schedule = make_schedule(optimizer, recipe, 10)
        values = []
        for step in range(10 * recipe.epochs):
            schedule.step_update(step)
            values.append(optimizer.param_groups[0]["lr"])
        assert optimizer.param_groups[1]["lr"] == values[-1]
        return values

    cosine = rates(get_recipe("short", epochs=10, warmup_epochs=2, learning_rate=1.0))
    assert cosine[:20] == sorted(cosine[:20])
    assert 0 < cosine[0] < 0.1
    assert max(cosine) == cosine[20] == 1.0
    assert cosine[20:] == sorted(cosine[20:], reverse=True)
    assert cosine[60] == pytest.approx(0.5)
    assert cosine[-1] < 0.01
    steps = rates(
        get_recipe("short", epochs=10, warmup_epochs=0, learning_rate=1.0, schedule="step", decay_at=(0.3, 0.6))
    )
    assert steps == pytest.approx([1.0] * 30 + [0.1] * 30 + [0.01] * 40)


def test_weights_alone_decay(tiny: Architecture) -> None:
    decayed, others = make_optimizer(build(tiny), get_recipe("cifar")).param_groups
    assert decayed["weight_decay"] == get_recipe("cifar").weight_decay
    assert others["weight_decay"] == 0
    assert all(parameter.ndim > 1 for parameter in decayed["params"])
    assert sum(map(len, (decayed["params"], others["params"]))) == len(list(build(tiny).parameters()))


def test_scores_count() -> None:
    scores = Scores.empty(7)
    logits = torch.eye(7)[torch.tensor([0, 1, 2, 3])] * 5 - torch.arange(7) * 0.1
    scores.add(logits[:2], torch.tensor([0, 1]))
    scores.add(logits[2:], torch.tensor([4, 6]))
    metrics = scores.metrics()
    assert metrics["accuracy"] == 0.5
    # 4 is the fifth guess behind 2, 0, 1 and 3; 6 is the last one behind 3.
    assert metrics["top5_accuracy"] == 0.75
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 4, 6])).item()
    assert metrics["loss"] == pytest.approx(expected)
    assert scores.confusion[4, 2] == scores.confusion[6, 3] == 1


def test_a_teacher_is_learnt_from(tiny: Architecture, forms: dict[str, Path], tmp_path: Path) -> None:
    from torchvision.models import get_model

    file = tmp_path / "teacher.safetensors"
    save_file(get_model("shufflenet_v2_x0_5", num_classes=4).state_dict(), file)
    teacher = TeacherConfig("torchvision:shufflenet_v2_x0_5", file)
    options: dict[str, Any] = {"device": "cpu", "workers": 0, "formats": ()}
    train(tiny, forms["zips"], FEW, tmp_path / "taught", teacher=teacher, **options)
    train(tiny, forms["zips"], FEW, tmp_path / "alone", **options)
    taught, alone = weights(tmp_path / "taught"), weights(tmp_path / "alone")
    assert not taught["head.classifier.weight"].equal(alone["head.classifier.weight"])
    with pytest.raises(ValueError, match=r"does not hold the weights of timm:mobilenetv3_small_050"):
        train(
            tiny,
            forms["zips"],
            FEW,
            tmp_path / "x",
            teacher=TeacherConfig("timm:mobilenetv3_small_050", file),
            **options,
        )
    for name, message in (("resnet18", "expected timm:NAME"), ("timm:resnet1", "resnet1")):
        with pytest.raises(ValueError, match=message):
            train(tiny, forms["zips"], FEW, tmp_path / name, teacher=TeacherConfig(name, file), **options)


def test_distillation_is_nothing_where_both_agree() -> None:
    logits = torch.randn(5, 3)
    assert distillation_loss(logits, logits + 7, 2.0).item() == pytest.approx(0, abs=1e-6)
    # Kullback and Leibler's divergence of (3/4, 1/4) from (1/2, 1/2), at a temperature of 1.
    teacher, even = torch.tensor([[math.log(3), 0.0]]), torch.zeros(1, 2)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert distillation_loss(even, teacher, 1.0).item() == pytest.approx(expected)


@pytest.mark.slow
def test_compiled_training_is_training(tiny: Architecture, forms: dict[str, Path], tmp_path: Path) -> None:
    recipe = FEW.replace(crop="center", flip=False)
    options: dict[str, Any] = {"device": "cpu", "workers": 0, "formats": ()}
    compiled = train(tiny, forms["zips"], recipe, tmp_path / "compiled", compiled=True, **options)
    eager = train(tiny, forms["zips"], recipe, tmp_path / "eager", **options)
    assert compiled.metrics["loss"] == pytest.approx(eager.metrics["loss"], rel=0.3)
    assert weights(tmp_path / "compiled").keys() == weights(tmp_path / "eager").keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 25, "micro_batch": 12}, "batch: 25 cannot be shared by 1 processes in micro-batches of 12"),
        ({"batch": 128}, "batch: 128, but there are only 96 training images"),
    ],
)
def test_batches_that_do_not_fit_are_refused(
    changes: dict[str, int], message: str, tiny: Architecture, forms: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        train(tiny, forms["zips"], FEW.replace(**changes), tmp_path / "out", device="cpu", workers=0)
    assert not (tmp_path / "out").exists()


def test_another_training_is_not_gone_on_with(tiny: Architecture, forms: dict[str, Path], tmp_path: Path) -> None:
    options: dict[str, Any] = {"device": "cpu", "workers": 0, "formats": ()}
    out = tmp_path / "out"
    train(tiny, forms["zips"], FEW, out, **options)
    (out / "result.json").unlink()
    for other, data, recipe, message in (
        (tiny.replace(width=0.75), forms["zips"], FEW, "architecture.width: 0.5 there, 0.75 asked for"),
        (tiny, forms["folders"], FEW, "data.digest"),
        (tiny, forms["zips"], FEW.replace(epochs=2), "recipe.epochs: 1 there, 2 asked for"),
    ):
        with pytest.raises(ValueError, match=message):
            train(other, data, recipe, out, **options)
    # Not by its checkpoint alone, either.
    (out / "training.json").unlink()
    with pytest.raises(FileExistsError, match="is not empty and holds no training"):
        train(tiny, forms["zips"], FEW, out, **options)


def test_a_folder_in_which_a_training_is_at_work_is_refused(
    tiny: Architecture, forms: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicenas.training.records._PATIENCE_S", 0.0)
    options: dict[str, Any] = {"device": "cpu", "workers": 0, "formats": ()}

    def again(epoch: int, metrics: Mapping[str, float]) -> None:
        with pytest.raises(FolderInUseError, match="train into another folder"):
            train(tiny, forms["zips"], FEW, tmp_path / "out", **options)
        raise Interrupted

    with pytest.raises(Interrupted):
        train(tiny, forms["zips"], FEW, tmp_path / "out", report=again, **options)


def test_what_a_kill_left_half_written_goes(tiny: Architecture, forms: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / ".training.json.0123456789abcdef").write_text("{", encoding="utf-8")
    (out / ".checkpoint.pt.0123456789abcdef").write_bytes(b"dicenas")
    (out / ".export.01234567" / "timm").mkdir(parents=True)
    train(tiny, forms["zips"], FEW, out, device="cpu", workers=0, formats=())
    names = {path.name for path in out.iterdir()}
    assert names == {".lock", "training.json", "checkpoint.pt", "metrics.csv", "confusion.csv", "result.json"}


def test_a_finished_training_is_exported_in_other_formats(
    tiny: Architecture, forms: dict[str, Path], tmp_path: Path
) -> None:
    options: dict[str, Any] = {"device": "cpu", "workers": 0}
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="unknown format 'safetensor'; did you mean 'safetensors'"):
        train(tiny, forms["zips"], FEW, out, formats=["safetensor"], **options)
    assert not out.exists()
    first = train(tiny, forms["zips"], FEW, out, formats=(), **options)
    assert not first.export_path.exists()
    second = train(tiny, forms["zips"], FEW, out, formats=["safetensors"], **options)
    assert second.metrics == first.metrics
    exported = load_file(out / "export" / "model.safetensors")
    assert_equal(exported, {name: value for name, value in weights(out).items() if name in exported})
    (out / "checkpoint.pt").unlink()
    assert train(tiny, forms["zips"], FEW, out, formats=["safetensors"], **options).metrics == first.metrics
    with pytest.raises(ValueError, match="not exported as pt2, and its checkpoint is gone"):
        train(tiny, forms["zips"], FEW, out, formats=["pt2"], **options)
    (out / "result.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"result\.json is damaged"):
        train(tiny, forms["zips"], FEW, out, formats=(), **options)


def test_a_device_that_is_not_there_is_refused(tiny: Architecture, forms: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cuda:99"):
        train(tiny, forms["zips"], FEW, tmp_path / "out", device="cuda:99")


def test_the_data_of_a_search_serve(tiny: Architecture, tmp_path: Path) -> None:
    data = DataConfig("digits", image_size=32, train_limit=60, val_limit=20)
    result = train(tiny, data, FEW, tmp_path / "out", device="cpu", formats=())
    identity = json.loads((tmp_path / "out" / "training.json").read_text(encoding="utf-8"))
    assert identity["architecture"]["num_classes"] == 10
    assert identity["data"]["train images"] == 60
    assert result.metrics["epochs"] == 1

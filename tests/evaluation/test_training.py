from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dicenas.architecture import Architecture
from dicenas.evaluation import (
    Data,
    DataConfig,
    TrainConfig,
    TrainingDiverged,
    evaluate,
    load_data,
    train_and_evaluate,
)
from dicenas.evaluation import datasets as datasets_module
from dicenas.nets import build


def tiny_net(num_classes: int = 10, seed: int = 0, dropout: float = 0.0) -> nn.Module:
    """Two depth-wise separable convolutions and a classifier."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.PReLU(16),
        nn.Conv2d(16, 16, 3, stride=2, padding=1, groups=16, bias=False),
        nn.Conv2d(16, 48, 1, bias=False),
        nn.BatchNorm2d(48),
        nn.ReLU(),
        nn.Conv2d(48, 48, 3, padding=1, groups=48, bias=False),
        nn.Conv2d(48, 48, 1, bias=False),
        nn.BatchNorm2d(48),
        nn.ReLU(),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(48, num_classes),
    )


@pytest.fixture(scope="module")
def digits() -> Data:
    return load_data(DataConfig(image_size=16))


@pytest.fixture(scope="module")
def few_digits() -> Data:
    return load_data(DataConfig(image_size=8, train_limit=70, val_limit=20))


def weights(net: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in net.state_dict().items()}


def assert_equal_weights(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def without_time(metrics: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in metrics.items() if key != "train_seconds"}


def test_digits_are_learnt_in_three_epochs(digits: Data) -> None:
    net = tiny_net()
    untrained = evaluate(net, digits)
    assert untrained["accuracy"] < 0.3
    metrics = train_and_evaluate(net, digits, TrainConfig())
    assert metrics["accuracy"] > 0.85
    assert metrics["loss"] < untrained["loss"] / 2
    assert metrics["epochs"] == 3
    assert metrics["train_seconds"] > 0
    assert evaluate(net, digits) == {key: metrics[key] for key in ("accuracy", "loss")}
    assert not net.training


def test_a_network_with_dice_units_learns_digits() -> None:
    data = load_data(DataConfig(image_size=16))
    architecture = Architecture(
        "shufflenetv2",
        0.5,
        (("dice_k3",), ("dice_k3", "separable_k3"), ("separable_se_k3",)),
        stem="small",
        image_size=(16, 16),
        num_classes=10,
    )
    torch.manual_seed(0)
    metrics = train_and_evaluate(build(architecture), data, TrainConfig())
    assert metrics["accuracy"] > 0.8


def test_running_statistics_keep_pace_with_a_short_training(few_digits: Data) -> None:
    nets = []
    for momentum in (0.1, 1 - 0.9997):
        net = tiny_net()
        norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = momentum
        train_and_evaluate(net, few_digits, TrainConfig(epochs=1, batch=10))
        assert {norm.momentum for norm in norms} == {momentum}
        nets.append(net)
    assert_equal_weights(*map(weights, nets))


def test_cifar10_images_are_learnt(cifar10_tree: Path) -> None:
    # 300 images are too few for unseen ones, so the network is asked about those that it was trained on.
    data = load_data(DataConfig("cifar10", cifar10_tree))
    seen = Data(data.train, data.train, data.class_names, data.mean, data.std, data.augmentable)
    net = tiny_net()
    metrics = train_and_evaluate(net, seen, TrainConfig(epochs=12, batch=20, augment=False))
    assert metrics["accuracy"] > 0.5
    unseen = evaluate(net, data)
    assert 0.1 < unseen["accuracy"] < metrics["accuracy"]


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_the_same_seed_gives_the_same_bits(cifar10_tree: Path, dropout: float) -> None:
    data = load_data(DataConfig("cifar10", cifar10_tree, train_limit=100, val_limit=50))
    assert data.augmentable

    def run(seed: int, noise: int) -> tuple[dict[str, float], dict[str, Tensor]]:
        net = tiny_net(dropout=dropout)
        torch.manual_seed(noise)  # what the global random state was must not matter
        metrics = train_and_evaluate(net, data, TrainConfig(epochs=2, batch=32, seed=seed))
        return without_time(metrics), weights(net)

    first, again, other = run(1, 10), run(1, 20), run(2, 10)
    assert first[0] == again[0]
    assert_equal_weights(first[1], again[1])
    assert first[0]["loss"] != other[0]["loss"]


def test_streamed_and_held_images_train_alike(cifar10_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = DataConfig("cifar10", cifar10_tree, train_limit=60, val_limit=20)
    held = train_and_evaluate(tiny_net(), load_data(config), TrainConfig(epochs=2, batch=16))
    monkeypatch.setattr(datasets_module, "_MEMORY_LIMIT", 0)
    streamed = train_and_evaluate(tiny_net(), load_data(config), TrainConfig(epochs=2, batch=16))
    assert without_time(held) == without_time(streamed)


def test_surroundings_are_left_as_they_were(few_digits: Data) -> None:
    net = tiny_net()
    threads = torch.get_num_threads()
    state = torch.random.get_rng_state()
    seen = []
    train_and_evaluate(
        net,
        few_digits,
        TrainConfig(epochs=1, batch=32, threads=threads + 1),
        report=lambda epoch, metrics: seen.append(torch.get_num_threads()),
    )
    assert seen == [threads + 1]
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(value.is_contiguous() for value in net.state_dict().values())


def test_reports_follow_the_epochs_and_change_nothing(few_digits: Data) -> None:
    reports: list[tuple[int, dict[str, float]]] = []
    quiet, watched = tiny_net(), tiny_net()
    config = TrainConfig(epochs=3, batch=16)
    expected = train_and_evaluate(quiet, few_digits, config)
    metrics = train_and_evaluate(
        watched, few_digits, config, report=lambda epoch, values: reports.append((epoch, values))
    )
    assert without_time(metrics) == without_time(expected)
    assert_equal_weights(weights(quiet), weights(watched))
    assert [epoch for epoch, _ in reports] == [1, 2, 3]
    assert reports[-1][1]["accuracy"] == metrics["accuracy"]
    assert reports[-1][1]["train_loss"] < reports[0][1]["train_loss"]


def test_training_stops_where_it_is_told_to(few_digits: Data) -> None:
    epochs: list[int] = []
    metrics = train_and_evaluate(
        tiny_net(),
        few_digits,
        TrainConfig(epochs=9, batch=32),
        report=lambda epoch, values: epochs.append(epoch),
        should_stop=lambda: len(epochs) == 2,
    )
    assert epochs == [1, 2]
    assert metrics["epochs"] == 2


def test_an_exception_in_report_ends_the_training(few_digits: Data) -> None:
    def report(epoch: int, metrics: dict[str, float]) -> None:
        raise LookupError("pruned")

    threads = torch.get_num_threads()
    with pytest.raises(LookupError, match="pruned"):
        train_and_evaluate(tiny_net(), few_digits, TrainConfig(threads=threads + 1), report=report)
    assert torch.get_num_threads() == threads


def test_the_smallest_sets_train(two_classes: Path) -> None:
    # A whole batch is more than there is.
    data = load_data(DataConfig("imagefolder", two_classes, train_limit=2, val_limit=2))
    metrics = train_and_evaluate(tiny_net(2), data, TrainConfig(epochs=1))
    assert metrics["accuracy"] in (0, 0.5, 1)


def spoil(net: nn.Module, value: float) -> None:
    with torch.no_grad():
        next(net.parameters()).fill_(value)


@pytest.mark.parametrize("make", [lambda net: spoil(net, float("nan")), lambda net: spoil(net, 1e38)])
def test_divergence_names_the_step(make: Callable[[nn.Module], None], few_digits: Data) -> None:
    net = tiny_net()
    make(net)
    with pytest.raises(TrainingDiverged, match=r"after 0 steps; lower the learning rate") as caught:
        train_and_evaluate(net, few_digits, TrainConfig(batch=32))
    assert caught.value.step == 0
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301
    assert (again.step, str(again)) == (0, str(caught.value))


def test_a_learning_rate_that_is_far_too_high_diverges(few_digits: Data) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 64), nn.Linear(64, 64), nn.Linear(64, 10))
    with pytest.raises(TrainingDiverged) as caught:
        train_and_evaluate(net, few_digits, TrainConfig(epochs=20, batch=16, learning_rate=1e30))
    assert caught.value.step > 0


def test_a_network_that_diverges_in_evaluation_only(few_digits: Data) -> None:
    class Spoilt(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = tiny_net()

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.net(images)
            return logits if self.training else logits * float("nan")

    with pytest.raises(TrainingDiverged) as caught:
        train_and_evaluate(Spoilt(), few_digits, TrainConfig(epochs=1, batch=32))
    assert caught.value.step == 2


def test_cuda_where_there_is_none(few_digits: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match="device 'cuda' was asked for, but this machine has 0 CUDA devices"):
        train_and_evaluate(tiny_net(), few_digits, TrainConfig(), device="cuda")
    with pytest.raises(ValueError, match="device 'gpu' is not known"):
        evaluate(tiny_net(), few_digits, device="gpu")


def test_wrong_outputs(few_digits: Data) -> None:
    with pytest.raises(ValueError, match=r"the network gave \(64, 7\), expected logits of shape \(64, 10\)"):
        train_and_evaluate(tiny_net(7), few_digits, TrainConfig())
    with pytest.raises(ValueError, match=r"the network gave \(20, 1000\), expected logits of shape \(20, 10\)"):
        evaluate(tiny_net(1000), few_digits)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"epochs": 0}, "epochs: 0, expected a whole number, 1 or more"),
        ({"epochs": 1.5}, "epochs: 1.5, expected"),
        ({"batch": 1}, "batch: 1, expected a whole number, 2 or more"),
        ({"seed": -1}, "seed: -1, expected"),
        ({"threads": 0}, "threads: 0, expected"),
        ({"learning_rate": 0}, "learning_rate: 0, expected"),
        ({"learning_rate": float("nan")}, "learning_rate: nan, expected"),
        ({"max_grad_norm": 0.0}, "max_grad_norm: 0.0, expected"),
        ({"weight_decay": -1e-4}, "weight_decay: -0.0001, expected"),
        ({"momentum": 1}, "momentum: 1, expected"),
        ({"label_smoothing": 1.0}, "label_smoothing: 1.0, expected"),
        ({"augment": "yes"}, "augment: 'yes', expected"),
    ],
)
def test_impossible_recipes(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match="expected") as caught:
        TrainConfig(**changes)
    assert str(caught.value).startswith(expected)


def test_all_problems_of_a_recipe_are_found_at_once() -> None:
    with pytest.raises(ValueError, match="expected") as caught:
        TrainConfig(epochs=0, learning_rate=-1, augment=1)  # type: ignore[arg-type]
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        "epochs",
        "learning_rate",
        "augment",
    ]

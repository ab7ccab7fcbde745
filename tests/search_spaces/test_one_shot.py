"""NNI's own one-shot strategies train our spaces, and what they find leaves as a plain network with its weights."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from dicenas.nets import build
from dicenas.search_spaces import BackboneSpace, make_space
from dicenas.space import SpaceSpec

import nni  # isort: skip  # noqa: F401  (dicenas.search_spaces imports it without its known warnings)
from nni.nas.evaluator.pytorch import Classification, DataLoader
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.space import RawFormatModelSpace
from nni.nas.strategy import DARTS, RandomOneShot
from torch.utils.data import TensorDataset

SHUFFLENET = SpaceSpec(
    "shufflenetv2",
    ops=("separable_k3", "dice_k3", "skip"),
    widths=(0.1,),
    depths=((1, 3), (1,), (1,)),
    stems=("small",),
    resolutions=(8,),
    num_classes=2,
)
MOBILENET = SpaceSpec("mobilenetv2", ("separable_k3", "skip"), (0.1,), ((1,), (2,), *((1,),) * 5), ("small",), (8,), 2)
FRACTIONS = SpaceSpec(
    "mobilenetv3_small",
    ops=("separable_k3", "skip"),
    widths=(0.1,),
    depths=((1,), (1, 2), (1,), (1,), (2,)),
    stems=("small",),
    resolutions=(8,),
    num_classes=2,
    expansions=(1, 2.5),
)
SPECS = pytest.mark.parametrize("spec", [SHUFFLENET, MOBILENET, FRACTIONS], ids=lambda spec: spec.backbone)
STRATEGIES = pytest.mark.parametrize("strategy", [RandomOneShot, DARTS])


@pytest.fixture(autouse=True)
def quiet_lightning() -> Iterator[None]:
    """Lightning and NNI advise on everything that a tiny training does without."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def evaluator(folder: Path) -> Classification:
    images = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    data = TensorDataset(images, (images.mean((1, 2, 3)) > 0).long())
    return Classification(
        learning_rate=0.01,
        num_classes=2,
        train_dataloaders=DataLoader(data, batch_size=8),
        val_dataloaders=DataLoader(data, batch_size=8),
        max_epochs=2,
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


@SPECS
@STRATEGIES
def test_a_strategy_trains_and_exports(spec: SpaceSpec, strategy: type, folder: Path) -> None:
    space = make_space(spec)
    before = space.stem.state_dict()
    before = {name: value.clone() for name, value in before.items()}
    searched = RawFormatModelSpace.from_model(space, evaluator(folder))
    one_shot = strategy()
    one_shot(searched, SequentialExecutionEngine())
    (found,) = one_shot.list_models()
    network: BackboneSpace = found.executable_model()
    assert network.architecture in spec
    assert set(network.state_dict()) == set(build(network.architecture).state_dict())
    # Its weights are those that were trained, and its own.
    trained = one_shot.supernet
    for name, value in network.stem.state_dict().items():
        assert torch.equal(value, trained.stem.state_dict()[name])
        assert not torch.equal(value, before[name]) or name.endswith("running_mean")
    pointers = {parameter.data_ptr() for parameter in trained.parameters()}
    assert not pointers & {parameter.data_ptr() for parameter in network.parameters()}
    assert network.eval()(torch.randn(1, 3, 8, 8)).shape == (1, 2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@SPECS
def test_a_frozen_network_computes_what_its_path_does(spec: SpaceSpec, folder: Path) -> None:
    space = make_space(spec)
    strategy = RandomOneShot()
    strategy.mutate_model(space)
    modules = [module for module in space.modules() if hasattr(module, "resample")]
    space.eval()
    x = torch.randn(2, 3, 8, 8)
    for _ in range(4):
        sample: dict[str, object] = {}
        for module in modules:
            sample.update(module.resample(sample))
        network = space.freeze(sample).eval()
        with torch.no_grad():
            torch.testing.assert_close(network(x), space(x))


@pytest.mark.parametrize("open_choice", [{"widths": (0.1, 0.2)}, {"resolutions": (8, 16)}])
@STRATEGIES
def test_what_they_cannot_choose_is_refused(open_choice: dict[str, object], strategy: type, folder: Path) -> None:
    space = make_space(SpaceSpec(**{**SHUFFLENET.to_dict(), **open_choice}))
    with pytest.raises(ValueError, match=r"not between {'(width|resolution)': .*dicenas.evaluation.SupernetEvaluator"):
        strategy()(RawFormatModelSpace.from_model(space, evaluator(folder)), SequentialExecutionEngine())
    assert isinstance(space.stages, nn.Sequential)

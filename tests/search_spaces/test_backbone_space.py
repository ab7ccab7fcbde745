"""The NNI spaces agree with the plain networks, and NNI's own strategies run on them."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dicenas.nets import ShuffleNetV2, build, get_backbone, list_backbones
from dicenas.search_spaces import BackboneSpace, MobileNetV2Space, ShuffleNetV2Space, make_space
from dicenas.search_spaces.named import NAMED_SPACES
from dicenas.space import SpaceSpec

import nni  # isort: skip  (dicenas.search_spaces imports it without its known warnings)
from nni.nas.evaluator import FunctionalEvaluator
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.nn.pytorch import LayerChoice
from nni.nas.space import RawFormatModelSpace, SimplifiedModelSpace, model_context
from nni.nas.strategy import Random as RandomStrategy
from nni.nas.strategy import RegularizedEvolution

SHUFFLENET = SpaceSpec(
    "shufflenetv2",
    ops=("separable_k3", "separable_se_k3", "dice", "skip"),
    widths=(0.1, 0.2),
    depths=((1, 2), (1, 3), (1,)),
    stems=("small", "imagenet"),
    resolutions=(32, 40),
    num_classes=7,
)
MOBILENET = SpaceSpec(
    "mobilenetv2",
    ops=("separable_k3", "separable_k5", "dice_k3", "skip"),
    widths=(0.1, 0.25),
    depths=((1,), (1, 2), (1, 2, 3), (1,), (2,), (1,), (1,)),
    stems=("small",),
    resolutions=(32,),
    num_classes=7,
)


def small_spec(backbone: str) -> SpaceSpec:
    """A space of small networks over any backbone."""
    family = get_backbone(backbone)
    return SpaceSpec(
        backbone,
        ops=("separable_k3", "separable_se_k3", "dice_k3", "skip"),
        widths=sorted(family.channels)[:2] if isinstance(family, ShuffleNetV2) else (0.1, 0.25),
        depths=((1, 2),) * family.num_stages,
        stems=("small",),
        resolutions=(16, 21),
        num_classes=7,
        # Points in the names of blocks, which names of modules cannot have.
        expansions=(1, 2.5) if family.expansions else (),
        activations=("relu", "prelu") if family.expansions else (),
    )


MOBILENETV3 = small_spec("mobilenetv3_small")
FULLY_TESTED = (SHUFFLENET.backbone, MOBILENET.backbone, MOBILENETV3.backbone)
SPECS = pytest.mark.parametrize("spec", [SHUFFLENET, MOBILENET, MOBILENETV3], ids=lambda spec: spec.backbone)


def nni_sample(space: BackboneSpace, seed: int) -> dict[str, object]:
    """A sample as NNI draws it: labels that are inactive included."""
    sample: dict[str, object] = {}
    mutables = space.simplify()
    rng = Random(seed)
    for label, mutable in mutables.items():
        sample[label] = rng.choice(list(mutable.values))
    return sample


@SPECS
def test_labels_and_values_are_those_of_the_spec(spec: SpaceSpec) -> None:
    mutables = make_space(spec).simplify()
    assert {label: tuple(mutable.values) for label, mutable in mutables.items()} == {
        choice.label: choice.values for choice in spec.choices
    }


@pytest.mark.parametrize(
    "spec",
    [SHUFFLENET, MOBILENET, MOBILENETV3, *(small_spec(name) for name in list_backbones() if name not in FULLY_TESTED)],
    ids=lambda spec: spec.backbone,
)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=5, deadline=None)
def test_frozen_space_and_plain_network_agree(spec: SpaceSpec, seed: int) -> None:
    space = make_space(spec)
    sample = nni_sample(space, seed)
    torch.manual_seed(seed)
    with model_context(sample):
        frozen = make_space(spec).eval()
    architecture = spec.architecture(sample)
    assert frozen.architecture == architecture
    plain = build(architecture).eval()
    assert list(plain.state_dict()) == list(frozen.state_dict())
    plain.load_state_dict(frozen.state_dict())
    x = torch.randn(2, 3, *architecture.image_size)
    with torch.no_grad():
        torch.testing.assert_close(frozen(x), plain(x), rtol=0, atol=0)


@SPECS
def test_two_networks_share_no_parameter(spec: SpaceSpec) -> None:
    space = make_space(spec)
    sample = nni_sample(space, 0)
    networks = [space, space.freeze(sample), space.freeze(sample)]
    pointers = [{parameter.data_ptr() for parameter in network.parameters()} for network in networks]
    assert not pointers[0] & pointers[1]
    assert not pointers[0] & pointers[2]
    assert not pointers[1] & pointers[2]


@SPECS
def test_free_space_runs_copies_and_pickles(spec: SpaceSpec) -> None:
    space = make_space(spec).eval()
    assert any(isinstance(module, LayerChoice) for module in space.modules())
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = space(x)
        assert expected.shape == (1, 7)
        for twin in (copy.deepcopy(space), pickle.loads(pickle.dumps(space))):  # noqa: S301
            torch.testing.assert_close(twin(x), expected)


def test_a_wrong_sample_is_refused() -> None:
    space = make_space(SHUFFLENET)
    sample = nni_sample(space, 0)
    with pytest.raises(ValueError, match="s1_b0 = 'conv' is not one of"):
        space.freeze({**sample, "s1_b0": "conv"})
    del sample["width"]
    with pytest.raises(ValueError, match="sample lacks 'width'"):
        space.freeze(sample)


def test_labels_of_an_evaluator_do_not_disturb() -> None:
    space = make_space(SHUFFLENET)
    sample = {**nni_sample(space, 0), "learning_rate": 0.1}
    assert space.freeze(sample).architecture is not None


def test_named_spaces() -> None:
    for backbone, kind in NAMED_SPACES.items():
        assert type(make_space(small_spec(backbone))) is kind
        assert kind.__name__.removesuffix("Space") == type(get_backbone(backbone)).__name__
    assert ShuffleNetV2Space().spec == SpaceSpec("shufflenetv2")
    assert MobileNetV2Space(widths=[0.5]).spec == SpaceSpec("mobilenetv2", widths=(0.5,))


@SPECS
@pytest.mark.parametrize("executable", [RawFormatModelSpace, SimplifiedModelSpace])
@pytest.mark.parametrize(
    "strategy",
    [
        lambda: RandomStrategy(seed=0),
        lambda: RegularizedEvolution(population_size=4, sample_size=2, seed=0),
    ],
    ids=["random", "evolution"],
)
def test_strategies_of_nni_run(spec: SpaceSpec, executable: type, strategy: object) -> None:
    seen: list[BackboneSpace] = []

    def evaluate(network: BackboneSpace) -> None:
        assert network.architecture in spec
        seen.append(network)
        nni.report_final_result(float(spec.cost(network.architecture).macs))

    space = executable.from_model(make_space(spec), FunctionalEvaluator(evaluate))
    strategy()(space, SequentialExecutionEngine(max_model_count=8))
    assert len(seen) == 8
    parameters = [parameter.data_ptr() for network in seen for parameter in network.parameters()]
    assert len(parameters) == len(set(parameters))


def test_only_the_known_warnings_of_nni_are_silent() -> None:
    script = "import dicenas.search_spaces, warnings; warnings.warn('seen', RuntimeWarning)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "is found to be not a nn.Module" not in result.stderr
    assert "seen" in result.stderr

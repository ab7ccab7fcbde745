"""The registry: every op in it keeps its promises, impossible arguments are refused, third-party ops join in."""

from __future__ import annotations

import copy
from dataclasses import replace
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dicenas.architecture import Architecture
from dicenas.nets import build, fuse_for_inference
from dicenas.ops import (
    CandidateArguments,
    Cost,
    build_candidate,
    build_op,
    candidate_cost,
    expand_candidates,
    get_op,
    list_ops,
    parse_candidate,
    register_op,
)
from dicenas.ops.layers import ACTIVATIONS
from dicenas.space import SpaceSpec

CANDIDATES = expand_candidates(list_ops())
#: What cannot stride.
KEEP_SHAPE = {("skip", 2), ("se", 2)}


def counted(module: nn.Module, in_channels: int, in_size: tuple[int, int]) -> Cost:
    """MACs and parameters of a module as torch counts them."""
    x = torch.empty(1, in_channels, *in_size, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module.to("meta").eval()(x)
    return Cost(counter.get_total_flops() // 2, sum(parameter.numel() for parameter in module.parameters()))


def fitting(
    candidate: str, stride: int, activation: str = "prelu", final_activation: bool = True
) -> CandidateArguments:
    """Arguments that the candidate can serve, odd wherever it may be."""
    op, kernel_size = parse_candidate(candidate)
    for channels in ((27, 9), (27, 27)):
        arguments = CandidateArguments(*channels, stride, (5, 3), kernel_size, activation, final_activation)
        if op.supports is None or op.supports(arguments):
            return arguments
    raise AssertionError(f"{candidate} serves no arguments at stride {stride}")


def built(candidate: str, a: CandidateArguments) -> nn.Module:
    return build_candidate(candidate, a.in_channels, a.out_channels, a.stride, a.size, a.activation, a.final_activation)


def inputs(a: CandidateArguments, batch: int = 1, odd: bool = False) -> Tensor:
    """An input that the op maps to its size; at stride 2 there is an odd and an even one."""
    height, width = (side * a.stride - (odd and a.stride == 2) for side in a.size)
    return torch.randn(batch, a.in_channels, height, width)


# What every op promises

SWEEP = [(candidate, stride) for candidate in CANDIDATES for stride in (1, 2) if (candidate, stride) not in KEEP_SHAPE]


def test_the_promised_ops_are_there() -> None:
    assert {
        *("separable_k3", "separable_k5", "separable_k7", "separable_se_k3", "separable_se_k5"),
        *("dice_k3", "dice_k5", "skip"),
        # The ablations of DiCENet's Tables 2 and 3.
        *("dw_pw_k3", "dw_se_k3", "dw_pw_se_k3", "dw_dimfuse_k3", "dimconv_pw_k3", "dimconv_se_k3", "dimconv_pw_se_k3"),
        *("dimfuse_dw_dimfuse_k3", "dimfuse_dimconv_dimfuse_k3"),
        # The blocks of efficient networks.
        *("pointwise", "conv_k3", "conv_k5", "conv_k7", "bottleneck_k3", "grouped_k3", "depthwise_k3", "depthwise_k5"),
        *("inverted_residual_k3", "inverted_residual_se_k3", "shuffle_bottleneck_k3", "dilated_k3", "se"),
        *("factorized_k3", "factorized_k7", "stacked_k5", "stacked_k7", "mixed_k7"),
    } <= set(CANDIDATES)


@pytest.mark.parametrize(("activation", "final_activation"), [("prelu", True), ("hardswish", False)])
@pytest.mark.parametrize(("candidate", "stride"), SWEEP)
def test_shape_and_gradients(candidate: str, stride: int, activation: str, final_activation: bool) -> None:
    arguments = fitting(candidate, stride, activation, final_activation)
    module = built(candidate, arguments)
    for batch, odd in ((1, False), (4, True)):
        module.zero_grad()
        x = inputs(arguments, batch, odd).requires_grad_()
        out = module(x)
        assert out.shape == (batch, arguments.out_channels, *arguments.size)
        (out * torch.randn_like(out)).sum().backward()
        for name, parameter in [("input", x), *module.named_parameters()]:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("candidate", [candidate for candidate in CANDIDATES if candidate != "skip"])
def test_every_parameter_is_used(candidate: str) -> None:
    arguments = fitting(candidate, 1)
    unused = {name for name, _ in built(candidate, arguments).named_parameters()}
    for _ in range(20):  # a gate's ReLU may be dead at first
        module = built(candidate, arguments)
        out = module(inputs(arguments, 4))
        (out * torch.randn_like(out)).sum().backward()
        unused -= {name for name, p in module.named_parameters() if p.grad is not None and p.grad.any()}
        if not unused:
            break
    assert unused == set()


@pytest.mark.parametrize(("candidate", "stride"), [pair for pair in SWEEP if pair[0] != "skip"])
def test_final_activation_is_an_argument(candidate: str, stride: int) -> None:
    for activation in ("relu", "relu6"):
        activated, linear = (fitting(candidate, stride, activation, final) for final in (True, False))
        x = inputs(activated, 4)
        assert (built(candidate, activated)(x) >= 0).all()
        assert (built(candidate, linear)(x) < 0).any()


@pytest.mark.parametrize(("candidate", "stride"), SWEEP)
def test_state_round_trip_and_copies(candidate: str, stride: int) -> None:
    arguments = fitting(candidate, stride)
    module, other = built(candidate, arguments), built(candidate, arguments)
    module(inputs(arguments, 4))  # moves the running statistics away from their start
    module.eval()
    x = inputs(arguments, 2)
    other.eval().load_state_dict(module.state_dict())
    assert torch.equal(other(x), module(x))

    twin = copy.deepcopy(module)
    assert torch.equal(twin(x), module(x))
    own = {parameter.data_ptr() for parameter in module.parameters()}
    assert own.isdisjoint(parameter.data_ptr() for parameter in twin.parameters())


@pytest.mark.parametrize(("candidate", "stride"), SWEEP)
def test_fused_for_inference_it_is_the_same(candidate: str, stride: int) -> None:
    module = built(candidate, fitting(candidate, stride)).double()
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = 1.0
            nn.init.uniform_(norm.weight, 0.7, 1.3)
            nn.init.normal_(norm.bias, std=0.2)
    x = inputs(fitting(candidate, stride), 8).double()
    with torch.no_grad():
        module(x)  # gives the normalisations the statistics of these images
        expected = module.eval()(x)
        torch.testing.assert_close(fuse_for_inference(module)(x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("candidate", CANDIDATES)
@settings(max_examples=10)
@given(
    in_channels=st.integers(1, 20),
    out_channels=st.integers(1, 20),
    stride=st.sampled_from((1, 2)),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    final_activation=st.booleans(),
    odd=st.booleans(),
)
def test_closed_form_is_what_is_counted(
    candidate: str,
    in_channels: int,
    out_channels: int,
    stride: int,
    size: tuple[int, int],
    activation: str,
    final_activation: bool,
    odd: bool,
) -> None:
    op, kernel_size = parse_candidate(candidate)
    a = CandidateArguments(in_channels, out_channels, stride, size, kernel_size, activation, final_activation)
    if op.supports is not None and not op.supports(a):
        channels = in_channels + 4
        a = CandidateArguments(channels, channels, 1, size, kernel_size, activation, final_activation)
    assert op.cost is not None
    height, width = inputs(a, odd=odd).shape[2:]
    a = replace(a, in_size=(height, width))
    assert candidate_cost(candidate, a) == counted(built(candidate, a), a.in_channels, a.in_size)


@pytest.mark.parametrize("candidate", [c for c in CANDIDATES if parse_candidate(c)[0].downsample is not None])
@settings(max_examples=10)
@given(
    channels=st.integers(4, 20),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    odd=st.booleans(),
)
def test_closed_form_of_downsampling_units(
    candidate: str, channels: int, size: tuple[int, int], activation: str, odd: bool
) -> None:
    op, kernel_size = parse_candidate(candidate)
    assert op.downsample is not None
    module = op.downsample.build(channels, size, kernel_size, activation).eval()
    in_size = (2 * size[0] - odd, 2 * size[1] - odd)
    assert module(torch.randn(2, channels, *in_size)).shape == (2, 2 * channels, *size)
    expected = counted(module, channels, in_size)
    assert op.downsample.cost(channels, size, kernel_size, activation) == expected


# Names


def test_kernel_size_defaults_to_three() -> None:
    module = build_op("separable", 8, 8, size=(4, 4))
    assert module.depthwise.conv.kernel_size == (3, 3)
    assert isinstance(build_op("skip", 8, 8, size=(4, 4)), nn.Identity)


def test_candidates_are_spelt_out() -> None:
    assert expand_candidates(["dice", "separable_k5", "skip"]) == ("dice_k3", "dice_k5", "separable_k5", "skip")
    assert parse_candidate("separable_se_k5") == (get_op("separable_se"), 5)
    assert parse_candidate("skip") == (get_op("skip"), 1)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["dice", "dice_k3"], "given twice: dice_k3"),
        (["skip", "skip"], "given twice: skip"),
        ([["dice"]], r"\['dice'\] should be a name"),
        (["dise"], "unknown op 'dise'; did you mean 'dice'"),
        (["dise_k3"], "unknown op 'dise'; did you mean 'dice'"),
        (["dice_k7"], "unknown candidate 'dice_k7'; op 'dice' offers dice_k3, dice_k5"),
        (["dice_k03"], "unknown candidate 'dice_k03'"),
        (["skip_k3"], "unknown candidate 'skip_k3'; op 'skip' offers skip"),
    ],
)
def test_wrong_names(names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        expand_candidates(names)


def test_an_op_is_no_candidate() -> None:
    with pytest.raises(ValueError, match="unknown candidate 'dice'; op 'dice' offers dice_k3, dice_k5"):
        parse_candidate("dice")


# Impossible arguments


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("separible", {}, "unknown op 'separible'; did you mean 'separable'.*registered: .*skip"),
        ("separable", {"stride": 3}, "'separable'.*stride 3 is neither 1 nor 2"),
        ("separable", {"stride": 0}, "stride 0"),
        ("separable", {"kernel_size": 4}, "kernel_size 4 is not offered; it has 3, 5, 7"),
        ("dice", {"kernel_size": 7}, "kernel_size 7 is not offered; it has 3, 5"),
        ("pointwise", {"kernel_size": 3}, "kernel_size 3 is not offered; it has no choice of it"),
        ("separable", {"size": (0, 4)}, r"size \(0, 4\)"),
        ("separable", {"size": (4, -1)}, r"size \(4, -1\)"),
        ("separable", {"size": (4,)}, r"size \(4,\) should be \(H, W\)"),
        ("separable", {"size": 4}, r"size 4 should be \(H, W\)"),
        ("separable", {"in_channels": 0}, "in_channels 0"),
        ("separable", {"out_channels": -1}, "out_channels -1"),
        ("separable", {"activation": "rely"}, "unknown activation 'rely'; did you mean 'relu'.*hardswish"),
        ("skip", {"out_channels": 9}, "'skip' cannot map 8 to 9 channels"),
        ("skip", {"stride": 2}, "'skip' cannot map.*stride 2"),
        ("dice", {"in_channels": 3}, "'dice' cannot map 3 to 8 channels"),
    ],
)
def test_impossible_arguments(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_op(name, **({"in_channels": 8, "out_channels": 8, "size": (4, 4)} | arguments))


def test_candidates_refuse_as_ops_do() -> None:
    with pytest.raises(ValueError, match="stride 3"):
        build_candidate("dice_k3", 8, 8, 3, (4, 4), "prelu", True)
    with pytest.raises(ValueError, match="unknown activation"):
        build_candidate("dice_k3", 8, 8, 1, (4, 4), "none", True)


# Ops of others


@pytest.mark.usefixtures("scratch_registry")
def test_a_third_party_op_is_searched_costed_and_built() -> None:
    @register_op("plain", kernel_sizes=(1, 3))
    def plain(
        in_channels: int,
        out_channels: int,
        *,
        stride: int,
        size: tuple[int, int],
        kernel_size: int,
        activation: str,
        final_activation: bool,
    ) -> nn.Module:
        """Plain convolution.

        The rest of the text is not its summary.
        """
        return nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2)

    assert "plain" in list_ops()
    assert get_op("plain").summary == "Plain convolution."
    assert get_op("plain").candidates == ("plain_k1", "plain_k3")

    arguments = CandidateArguments(6, 10, 2, (4, 5), 3, "relu", True)
    assert candidate_cost("plain_k3", arguments) == Cost(10 * 6 * 9 * 4 * 5, 10 * 6 * 9 + 10)

    for backbone, stages in (("shufflenetv2", 3), ("mobilenetv2", 7)):
        space = SpaceSpec(
            backbone,
            ("plain", "skip"),
            widths=(0.5,),
            depths=((1, 2),) * stages,
            stems=("small",),
            resolutions=(32,),
            num_classes=4,
        )
        architecture = space.random(Random(1))
        assert any("plain_k3" in stage for stage in architecture.stages)
        net = build(architecture)
        assert net(torch.randn(2, 3, 32, 32)).shape == (2, 4)
        assert space.cost(architecture) == counted(net, 3, (32, 32))
        assert Architecture.from_json(architecture.to_json()) == architecture


@pytest.mark.usefixtures("scratch_registry")
def test_an_op_is_offered_where_it_fits_at_every_width_and_resolution() -> None:
    def supports(arguments: CandidateArguments) -> bool:
        return arguments.in_channels >= 12 and min(arguments.size) >= 4

    register_op("picky", kernel_sizes=(), supports=supports)(factory)

    def offered(widths: tuple[float, ...], resolutions: tuple[int, ...]) -> set[str]:
        space = SpaceSpec(
            "shufflenetv2",
            ("separable_k3", "picky"),
            widths=widths,
            depths=((1,),) * 3,
            stems=("small",),
            resolutions=resolutions,
        )
        return {choice.label for choice in space.choices if "picky" in choice.values}

    # Channels are 8, 8, 16, 16, 32, 32 at width 0.1 and at least 24 at 0.5; sizes are those of the stages.
    assert offered((0.5,), (32,)) == {"s1_b0", "s1_b1", "s2_b0", "s2_b1", "s3_b0", "s3_b1"}
    assert offered((0.1,), (32,)) == {"s2_b0", "s2_b1", "s3_b0", "s3_b1"}
    for widths in ((0.1, 0.5), (0.5, 0.1)):
        assert offered(widths, (32,)) == {"s2_b0", "s2_b1", "s3_b0", "s3_b1"}
    for resolutions in ((16, 32), (32, 16)):
        assert offered((0.5,), resolutions) == {"s1_b0", "s1_b1", "s2_b0", "s2_b1"}


def test_the_third_party_op_is_gone() -> None:
    assert "plain" not in list_ops()
    with pytest.raises(ValueError, match="unknown op 'plain'"):
        get_op("plain")


def factory(in_channels: int, out_channels: int, **_: Any) -> nn.Module:
    return nn.Conv2d(in_channels, out_channels, 1)


@pytest.mark.usefixtures("scratch_registry")
@pytest.mark.parametrize(
    ("name", "kernel_sizes", "message"),
    [
        ("dice", (3,), "'dice' is already registered"),
        ("my_k3", (3,), "does not end in _k<number>"),
        ("Mine", (3,), "lower-case identifier"),
        ("", (3,), "lower-case identifier"),
        ("mine", (2,), r"kernel sizes \(2,\) should be odd"),
        ("mine", (-1,), "should be odd, positive"),
        ("mine", (3, 3), "distinct"),
    ],
)
def test_unusable_registrations(name: str, kernel_sizes: tuple[int, ...], message: str) -> None:
    before = list_ops()
    with pytest.raises(ValueError, match=message):
        register_op(name, kernel_sizes=kernel_sizes)(factory)
    assert list_ops() == before

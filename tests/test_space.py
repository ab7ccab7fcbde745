"""Spaces as data: every walk over a space agrees with every other, and costs with what is built."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from dicenas.architecture import Architecture
from dicenas.nets import (
    build,
    dicenet_architecture,
    get_backbone,
    mixnet_architecture,
    mnasnet_architecture,
    mobilenetv2_architecture,
    mobilenetv3_architecture,
)
from dicenas.ops import Cost
from dicenas.space import Choice, Sample, SpaceSpec

OPS = ("separable_k3", "separable_se_k3", "dice_k3", "separable_k5")
# At width 0.25 the first block of MobileNetV2 keeps its shape, so that an op like skip would fit there; at 0.1 that of
# MobileNetV1.
WIDTHS = {
    "mobilenetv1": (0.1, 0.25, 1.0),
    "resnet": (0.1, 0.16),
    "shufflenetv2_torchvision": (0.5, 1.0),
    "shufflenetv2": (0.1, 0.2, 0.75),
    "mobilenetv2": (0.25, 0.5, 1.0),
    "mobilenetv3_small": (0.25, 0.5, 1.0),
}
STAGES = {backbone: get_backbone(backbone).num_stages for backbone in WIDTHS}


@st.composite
def spaces(draw: st.DrawFn, max_size: int = 800) -> SpaceSpec:
    """Small spaces of backbones that differ in what a block is and in what a skip does."""
    backbone = draw(st.sampled_from(sorted(STAGES)))
    numbers = {"ops": 2}
    if backbone == "mobilenetv3_small":
        # Two ops, expansions or activations: a block has their product.
        numbers = {draw(st.sampled_from(("ops", "expansions", "activations"))): 2}
    ops = draw(st.lists(st.sampled_from(OPS), min_size=1, max_size=numbers.get("ops", 1), unique=True))
    choices: dict[str, Any] = {}
    if backbone == "mobilenetv3_small":
        for name, values in (("expansions", (1, 2.5, 4)), ("activations", ("relu", "hardswish", "prelu"))):
            size = numbers.get(name, 1)
            choices[name] = tuple(draw(st.lists(st.sampled_from(values), min_size=1, max_size=size, unique=True)))
    if draw(st.booleans()):
        ops.insert(draw(st.integers(0, len(ops))), "skip")
    # One or two stages are open; the others have their one depth.
    depths = [(1,)] * STAGES[backbone]
    for _ in range(draw(st.integers(0, 2))):
        stage = draw(st.integers(0, len(depths) - 1))
        depths[stage] = tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=3, unique=True)))

    def some(values: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(draw(st.lists(st.sampled_from(values), min_size=1, max_size=2, unique=True)))

    if backbone != "mobilenetv3_small" and draw(st.booleans()):
        # The first block of a stage is never left out, so it may have ops of its own in any space.
        label = f"s{draw(st.integers(1, len(depths)))}_b0"
        choices["block_ops"] = {label: draw(st.lists(st.sampled_from(OPS), min_size=1, max_size=2, unique=True))}
    space = SpaceSpec(
        backbone,
        tuple(ops),
        widths=some(WIDTHS[backbone]),
        depths=tuple(depths),
        stems=some(("small", "imagenet")),
        resolutions=some((16, 32, 37)),
        num_classes=draw(st.integers(1, 20)),
        in_channels=draw(st.sampled_from((1, 3))),
        **choices,
    )
    assume(space.size <= max_size)
    return space


def all_samples(space: SpaceSpec) -> Iterator[Sample]:
    """Every sample of active choices."""

    def extend(sample: Sample, choices: tuple[Choice, ...]) -> Iterator[Sample]:
        if not choices:
            yield sample
        elif choices[0].active(sample):
            for value in choices[0].values:
                yield from extend({**sample, choices[0].label: value}, choices[1:])
        else:
            yield from extend(sample, choices[1:])

    return extend({}, space.choices)


def changed_parts(one: Architecture, other: Architecture) -> list[str]:
    """What of two architectures differs: width, stem, resolution, or a stage."""
    parts = [name for name in ("width", "stem", "image_size") if getattr(one, name) != getattr(other, name)]
    stages = enumerate(zip(one.stages, other.stages, strict=True), 1)
    return parts + [f"stage {number}" for number, (a, b) in stages if a != b]


def counted(architecture: Architecture) -> Cost:
    """MACs and parameters of the built network as torch counts them."""
    with torch.device("meta"):
        net = build(architecture).eval()
        x = torch.empty(1, architecture.in_channels, *architecture.image_size)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(x)
    return Cost(counter.get_total_flops() // 2, sum(parameter.numel() for parameter in net.parameters()))


# Laws


@given(spaces())
def test_enumeration_is_complete_and_without_repetition(space: SpaceSpec) -> None:
    points = list(space.enumerate())
    assert len(points) == space.size
    assert len(set(points)) == space.size
    assert len({point.hash for point in points}) == space.size
    assert {space.architecture(sample) for sample in all_samples(space)} == set(points)


@given(spaces(max_size=300))
def test_samples_and_architectures_translate(space: SpaceSpec) -> None:
    labels = {choice.label: choice for choice in space.choices}
    for architecture in space.enumerate():
        assert architecture in space
        sample = space.sample(architecture)
        assert space.architecture(sample) == architecture
        active = {label for label, choice in labels.items() if choice.active(sample)}
        assert set(sample) == active
        assert all(value in labels[label].values for label, value in sample.items())


@given(spaces(), st.randoms(use_true_random=False))
def test_inactive_choices_leave_no_trace(space: SpaceSpec, rng: Random) -> None:
    sample: Sample = {choice.label: rng.choice(choice.values) for choice in space.choices}
    active = {choice.label: sample[choice.label] for choice in space.choices if choice.active(sample)}
    assert space.architecture(sample) == space.architecture(active)


@given(spaces(), st.randoms(use_true_random=False))
def test_random_and_mutated_points_are_in_the_space(space: SpaceSpec, rng: Random) -> None:
    architecture = space.random(rng)
    assert architecture in space
    if space.size == 1:
        with pytest.raises(ValueError, match="holds one architecture"):
            space.mutate(architecture, rng)
        return
    for _ in range(10):
        mutated = space.mutate(architecture, rng)
        assert mutated in space
        assert len(changed_parts(architecture, mutated)) == 1
        if space.backbone == "shufflenetv2":  # nothing is left out there, so labels stay where they are
            before, after = space.sample(architecture), space.sample(mutated)
            assert sum(before[label] != after[label] for label in set(before) & set(after)) == 1
        architecture = mutated


@pytest.mark.parametrize(
    "space",
    [
        SpaceSpec("shufflenetv2", ("separable_k3", "dice_k3"), (0.5,), ((1,), (1, 2), (1,))),
        SpaceSpec("mobilenetv2", ("skip", "separable_k3"), (0.25, 0.5), ((1,), (1, 3), (2,), *[(1,)] * 4)),
        SpaceSpec("mobilenetv3_small", ("dice_k3",), (0.25,), ((1,),) * 5, expansions=(1, 3)),
    ],
    ids=lambda space: space.backbone,
)
def test_mutation_reaches_the_whole_space(space: SpaceSpec) -> None:
    rng = Random(0)
    architecture = space.random(rng)
    reached = {architecture}
    for _ in range(40 * space.size):
        architecture = space.mutate(architecture, rng)
        reached.add(architecture)
        if len(reached) == space.size:
            break
    assert len(reached) == space.size


def test_mutation_is_never_the_same_network() -> None:
    # A deeper stage filled up with skips is the shallower one.
    space = SpaceSpec("mobilenetv2", ("skip", "separable_k3"), (0.5,), ((1, 2, 3), *[(1,)] * 6), ("small",), (16,))
    rng = Random(0)
    shallow = mobilenetv2_architecture(0.5, 1000, 16).replace(stem="small", stages=(("separable_k3",),) * 7)
    assert shallow in space
    assert {len(space.mutate(shallow, rng).stages[0]) for _ in range(100)} == {2, 3}


def test_randomness_is_the_generator_s() -> None:
    space = SpaceSpec("shufflenetv2")
    assert [space.random(Random(3)) for _ in range(2)] == [space.random(Random(3))] * 2
    start = space.random(Random(3))
    assert space.mutate(start, Random(4)) == space.mutate(start, Random(4))
    assert len({space.random(Random(seed)) for seed in range(20)}) == 20


@settings(max_examples=8)
@given(spaces(), st.integers(0, 2**32))
def test_cost_is_that_of_the_built_network(space: SpaceSpec, seed: int) -> None:
    architecture = space.random(Random(seed))
    assert space.cost(architecture) == counted(architecture)


@given(spaces(max_size=200), st.sampled_from((None, 64, 100)))
def test_minimum_is_exact(space: SpaceSpec, image_size: int | None) -> None:
    points = list(space.enumerate())
    if image_size is not None:
        points = [point.at_size(image_size) for point in points]
    costs = [space.cost(point) for point in points]
    assert space.minimum("macs", image_size) == min(cost.macs for cost in costs)
    assert space.minimum("params", image_size) == min(cost.params for cost in costs)


# Sizes, choices, equality


def test_size_of_a_space_counted_by_hand() -> None:
    space = SpaceSpec(
        "shufflenetv2",
        ("separable_k3", "dice_k3", "skip"),
        widths=(0.5, 1.0),
        depths=((1,), (1, 2), (2,)),
        stems=("small",),
        resolutions=(32, 48, 64),
    )
    # A strided unit takes 2 ops, a basic one 3.
    assert space.size == 2 * 3 * (2 * 3) * (2 * 3 + 2 * 9) * (2 * 9)
    assert [choice.label for choice in space.choices] == [
        *("width", "resolution", "s1_b0", "s1_b1"),
        *("s2_depth", "s2_b0", "s2_b1", "s2_b2", "s3_b0", "s3_b1", "s3_b2"),
    ]
    by_label = {choice.label: choice for choice in space.choices}
    assert by_label["s2_b2"] == Choice("s2_b2", ("separable_k3", "dice_k3", "skip"), ("s2_depth", (2,)))
    assert by_label["s2_b0"] == Choice("s2_b0", ("separable_k3", "dice_k3"))


def test_skips_of_mobilenet_are_shorter_stages() -> None:
    space = SpaceSpec(
        "mobilenetv2",
        ("separable_k3", "dice_k3", "skip"),
        widths=(1.0,),
        depths=((1,), (3,), *[(1,)] * 5),
        resolutions=(32,),
    )
    # Stage 2 has one, two or three blocks of two ops each; the other six stages have one block.
    assert space.size == 2**6 * (2 + 4 + 8)
    sample = {choice.label: "separable_k3" for choice in space.choices}
    first = space.architecture({**sample, "s2_b1": "skip", "s2_b2": "dice_k3"})
    second = space.architecture({**sample, "s2_b1": "dice_k3", "s2_b2": "skip"})
    assert first == second
    assert first.stages[1] == ("separable_k3", "dice_k3")


def test_blocks_are_products_of_op_expansion_and_activation() -> None:
    space = SpaceSpec(
        "mobilenetv3_small",
        ("separable_k3", "skip", "dice_k3"),
        widths=(1.0,),
        depths=((1,), (2,), *[(1,)] * 3),
        expansions=(6, 2.5),
        activations=("relu", "hardswish"),
    )
    # ReLU is what the first stages have anyway, and an identity has neither expansion nor activation.
    relu = ("separable_k3_e6", "separable_k3_e6_hardswish", "separable_k3_e2.5", "separable_k3_e2.5_hardswish")
    assert space.candidates("s1_b0")[:4] == relu
    assert space.candidates("s2_b1") == (*relu, "skip", *(name.replace("separable", "dice") for name in relu))
    assert space.candidates("s3_b0")[:2] == ("separable_k3_e6_relu", "separable_k3_e6")
    # Eight blocks everywhere; stage 2 has one or two of them.
    assert space.size == 8**4 * (8 + 8**2)
    sample = {choice.label: choice.values[0] for choice in space.choices}
    architecture = space.architecture({**sample, "s2_b1": "skip"})
    assert architecture.stages[1] == ("separable_k3_e6",)
    assert space.sample(architecture)["s2_b1"] == "skip"


def test_activations_are_those_of_the_stages_when_none_are_given() -> None:
    space = SpaceSpec("mobilenetv3_large", ("separable_k3",), expansions=(3,))
    assert set(space.candidates("s1_b0")) == set(space.candidates("s4_b1")) == {"separable_k3_e3"}
    assert space.to_dict()["activations"] == []


def test_no_stage_is_empty_where_its_first_block_keeps_the_shape() -> None:
    space = SpaceSpec("mobilenetv2", ("skip", "separable_k3"), widths=(0.25,), depths=((1, 2),) * 7, resolutions=(32,))
    assert all(stage for point in space.enumerate() for stage in point.stages)


def test_enumeration_of_a_large_space_is_lazy() -> None:
    space = SpaceSpec("shufflenetv2")
    assert space.size > 10**12
    assert len(set(itertools.islice(space.enumerate(), 100))) == 100


def test_published_networks_are_points_of_their_spaces() -> None:
    dicenet = dicenet_architecture(1.0)
    space = SpaceSpec("shufflenetv2", ("separable", "dice"), depths=((1, 3), (5, 7), (1, 3)))
    assert dicenet in space
    assert space.sample(dicenet)["s2_depth"] == 7
    assert dicenet in SpaceSpec("shufflenetv2")
    assert mobilenetv2_architecture(1.0) in SpaceSpec("mobilenetv2")
    assert mobilenetv2_architecture(0.75, 10, 32) in SpaceSpec("mobilenetv2", resolutions=(32,), num_classes=10)


def test_published_networks_of_inverted_residuals_are_points_of_spaces_with_their_expansions() -> None:
    for architecture, expansions in (
        (mobilenetv3_architecture("large"), (1, 2.3, 2.5, 3, 4, 6)),
        (mobilenetv3_architecture("small"), (1, 3, 3.67, 4, 4.5, 6)),
        (mnasnet_architecture(0.5), (1, 3, 6)),
        (mixnet_architecture(), (1, 3, 6)),
    ):
        space = SpaceSpec(architecture.backbone, expansions=expansions)
        if architecture.backbone == "mixnet":  # its kernels are many
            space = SpaceSpec("mixnet", ("separable_k3", "mixed_hse"), expansions=expansions)
        assert architecture in space
        assert space.architecture(space.sample(architecture)) == architecture


def test_what_is_not_a_point() -> None:
    space = SpaceSpec("shufflenetv2", ("separable_k3", "dice_k3"), depths=((1, 3), (1, 3), (1, 3)))
    point = space.random(Random(0))
    assert point in space
    others: list[object] = [
        "shufflenetv2",
        None,
        mobilenetv2_architecture(),
        point.replace(width=0.1),
        point.replace(stem="small"),
        point.replace(image_size=(224, 192)),
        point.replace(image_size=(225, 225)),
        point.replace(num_classes=10),
        point.replace(in_channels=1),
        point.replace(stages=point.stages[:2]),
        point.replace(stages=(*point.stages, ("dice_k3",))),
        point.replace(stages=(("dice_k3",) * 3, *point.stages[1:])),
        point.replace(stages=(("dice_k3",) * 5, *point.stages[1:])),
        point.replace(stages=(("dice_k5", "dice_k3"), *point.stages[1:])),
        point.replace(stages=((), *point.stages[1:])),
    ]
    assert [other for other in others if other in space] == []
    for other in others:
        if isinstance(other, Architecture):
            with pytest.raises(ValueError, match=r"not a point|is not one of|lacks"):
                space.sample(other)


def test_unchosen_skips_are_no_points() -> None:
    space = SpaceSpec("mobilenetv2", ("separable_k3", "skip"), depths=((1, 2),) * 7)
    point = space.random(Random(0))
    assert point.replace(stages=(("separable_k3", "skip"), *point.stages[1:])) not in space


@pytest.mark.parametrize(
    "changes",
    [
        {"ops": ("dice",)},
        {"widths": (0.5,)},
        {"depths": ((1,), (1,), (1,))},
        {"stems": ("small",)},
        {"resolutions": (32,)},
        {"num_classes": 10},
        {"in_channels": 1},
        {"backbone": "mobilenetv2", "widths": (), "depths": ()},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_fingerprints_tell_spaces_apart(changes: dict[str, Any]) -> None:
    space = SpaceSpec("shufflenetv2")
    changed = dataclasses.replace(space, **changes)
    assert changed != space
    assert changed.fingerprint != space.fingerprint


def test_fingerprints_last() -> None:
    # Runs of earlier versions go on only in a space of the same fingerprint.
    assert SpaceSpec("shufflenetv2").fingerprint == "55cf62cfb80c8957"
    space = SpaceSpec("mobilenetv2", ("separable", "dice_k3"), resolutions=(32,))
    assert space.fingerprint == "4785f2d9e6ce213d"


def test_spellings_of_one_space_are_equal() -> None:
    lists: Any = {"ops": ["dice", "skip"], "widths": [1, 0.5], "depths": [[1], [2], [1, 2]], "resolutions": [32]}
    one = SpaceSpec("shufflenetv2", **lists)
    other = SpaceSpec(
        "shufflenetv2", ("dice_k3", "dice_k5", "skip"), (1.0, 0.5), ((1,), (2,), (1, 2)), resolutions=(32,)
    )
    assert one == other
    assert hash(one) == hash(other)
    assert one.fingerprint == other.fingerprint
    assert SpaceSpec(**other.to_dict()) == one


# Samples that are none


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"s9_b0": "dice_k3"}, "unknown labels: s9_b0"),
        ({"width": 0.3}, r"width = 0.3 is not one of \[0.5, 1.0\]"),
        ({"s1_depth": 7}, "s1_depth = 7 is not one of"),
        ({"s1_b0": "skip"}, "s1_b0 = 'skip' is not one of"),
    ],
)
def test_bad_samples(changes: Sample, message: str) -> None:
    space = SpaceSpec("shufflenetv2", ("dice", "skip"), widths=(0.5, 1.0))
    sample = space.sample(space.random(Random(0)))
    with pytest.raises(ValueError, match=message):
        space.architecture({**sample, **changes})


def test_incomplete_sample() -> None:
    space = SpaceSpec("shufflenetv2")
    sample = space.sample(space.random(Random(0)))
    del sample["s2_b0"]
    with pytest.raises(ValueError, match=r"sample lacks 's2_b0'; it may be one of \['separable_k3'"):
        space.architecture(sample)


# Spaces that are none


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backbone": "shuflenetv2"}, "unknown backbone 'shuflenetv2'; did you mean 'shufflenetv2'.*mobilenetv2"),
        ({"ops": ("seperable",)}, "unknown op 'seperable'; did you mean 'separable'"),
        ({"ops": ("dice_k9",)}, "unknown candidate 'dice_k9'"),
        ({"expansions": (6,)}, "shufflenetv2 has no choice of expansions: those of its blocks are fixed"),
        ({"activations": ("relu",)}, "shufflenetv2 has no choice of activations"),
        ({"expansions": ("6",)}, "expansions should be a list of numbers"),
        ({"ops": ("dice", "dice_k3")}, "given twice: dice_k3"),
        ({"ops": ("skip",)}, "none of the ops skip fits into block s1_b0"),
        ({"widths": (0.6,)}, r"no width 0.6; published widths: 0.1, .*2.4"),
        ({"widths": (0.5, 0.5)}, r"widths: a value is given twice"),
        ({"widths": (1, 1.0)}, r"widths: a value is given twice"),
        ({"stems": ("large",)}, r"unknown stem 'large'.*\(imagenet or small\)"),
        ({"stems": ()}, "stems: no value given"),
        ({"stems": ("small", "small")}, "stems: a value is given twice"),
        ({"resolutions": (0,)}, r"resolutions \[0\]"),
        ({"resolutions": (32.5,)}, r"resolutions \[32.5\]"),
        ({"resolutions": ()}, "resolutions: no value given"),
        ({"depths": ((1,), (1,))}, "has 3 stages, depths gives 2 lists"),
        ({"depths": ((1,), (0, 1), (1,))}, r"depths of stage 2: \[0, 1\] should be positive"),
        ({"depths": ((1,), (), (1,))}, "depths of stage 2: no value given"),
        ({"depths": ((1,), (2, 2), (1,))}, "depths of stage 2: a value is given twice"),
        ({"ops": "dice"}, "ops should be a list of names, got 'dice'"),
        ({"ops": (3,)}, "ops should be a list of names"),
        ({"widths": ("wide",)}, "widths should be a list of numbers"),
        ({"widths": (None,)}, "widths should be a list of numbers"),
        ({"stems": "small"}, "stems should be a list of names, got 'small'"),
        ({"stems": (["small"],)}, "stems should be a list of names"),
        ({"resolutions": ("32",)}, "resolutions .* should be positive sizes"),
        ({"num_classes": 0}, "num_classes 0"),
        ({"in_channels": 0}, "in_channels 0"),
    ],
)
def test_bad_spaces(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpaceSpec(**({"backbone": "shufflenetv2"} | arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"expansions": (6, 6.0)}, "expansions: a value is given twice"),
        ({"expansions": (0,)}, "expansion 0 is outside 0.1 to 32"),
        ({"expansions": (-3,)}, "expansion -3 is outside 0.1 to 32"),
        ({"expansions": (float("nan"),)}, "expansion nan is outside"),
        ({"expansions": (33,)}, "expansion 33 is outside 0.1 to 32"),
        ({"expansions": 6}, "expansions should be a list of numbers, got 6"),
        ({"activations": ("rely",)}, "unknown activation 'rely'; did you mean 'relu'"),
        ({"activations": ("relu", "relu")}, "activations: a value is given twice"),
        ({"activations": "relu"}, "activations should be a list of names, got 'relu'"),
    ],
)
def test_bad_blocks(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpaceSpec("mobilenetv3_small", **arguments)


def test_width_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"width 9\.0 is outside 0\.05 to 8"):
        SpaceSpec("mobilenetv2", widths=(9,))


# Configurations

SECTION = {
    "backbone": "shufflenetv2",
    "ops": ["separable", "dice", "skip"],
    "widths": [0.5, 1.0],
    "depths": [[1, 2], [1, 3], [1, 2]],
    "stem": "small",
}


def test_from_config() -> None:
    space = SpaceSpec.from_config(SECTION, num_classes=10, image_size=32)
    expected = SpaceSpec(
        "shufflenetv2",
        ("separable", "dice", "skip"),
        (0.5, 1.0),
        ((1, 2), (1, 3), (1, 2)),
        ("small",),
        (32,),
        num_classes=10,
    )
    assert space == expected


@pytest.mark.parametrize(("image_size", "stem"), [(32, "small"), (63, "small"), (64, "imagenet")])
def test_from_config_with_defaults(image_size: int, stem: str) -> None:
    space = SpaceSpec.from_config({"backbone": "mobilenetv2"}, num_classes=4, image_size=image_size, in_channels=1)
    expected = SpaceSpec("mobilenetv2", stems=(stem,), resolutions=(image_size,), num_classes=4, in_channels=1)
    assert space == expected


def test_from_config_with_searched_stem_and_resolution() -> None:
    section = SECTION | {"stem": ["small", "imagenet"], "resolutions": [32, 48]}
    space = SpaceSpec.from_config(section, num_classes=10, image_size=32)
    assert (space.stems, space.resolutions) == (("small", "imagenet"), (32, 48))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": [1.0]}, "unknown key 'width'; did you mean 'widths'.*backbone, ops"),
        ({"backbone": None}, "key 'backbone' should name a backbone: .*mobilenetv2 or"),
        ({"ops": "dice"}, "ops should be a list, got 'dice'"),
        ({"widths": 0.5}, "widths should be a list, got 0.5"),
        ({"ops": []}, "ops: no value given"),
        ({"stem": []}, "stem: no value given"),
        ({"depths": 3}, "depths should be a list, got 3"),
        ({"depths": [1, 2, 3]}, r"depths should be a list of lists, got \(1, 2, 3\)"),
        ({"resolutions": 32}, "resolutions should be a list, got 32"),
        ({"stem": None}, "stem should be a list, got None"),
    ],
)
def test_bad_sections(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpaceSpec.from_config(SECTION | changes, num_classes=10, image_size=32)


def test_section_without_backbone() -> None:
    with pytest.raises(ValueError, match="key 'backbone' should name a backbone"):
        SpaceSpec.from_config({}, num_classes=10, image_size=32)


def test_single_blocks_may_have_ops_of_their_own() -> None:
    space = SpaceSpec(
        "shufflenetv2",
        ("separable_k3", "dice_k3", "skip"),
        (0.5,),
        ((1,), (1,), (1,)),
        block_ops={"s2_b0": ["separable"], "s1_b0": ("dice_k3",), "s3_b1": ("dice_k3", "skip")},
    )
    assert space.candidates("s1_b0") == ("dice_k3",)
    assert space.candidates("s2_b0") == ("separable_k3", "separable_k5", "separable_k7")
    assert space.candidates("s2_b1") == ("separable_k3", "dice_k3", "skip")
    assert space.candidates("s3_b1") == ("dice_k3", "skip")
    assert space == SpaceSpec(**space.to_dict())
    assert space != SpaceSpec("shufflenetv2", space.ops, (0.5,), ((1,), (1,), (1,)))
    assert "block_ops" not in SpaceSpec("shufflenetv2").to_dict()
    section = {"backbone": "shufflenetv2", "ops": ["skip", "dice"], "block_ops": {"s1_b0": ["dice_k3"]}}
    assert SpaceSpec.from_config(section, num_classes=10, image_size=32).candidates("s1_b0") == ("dice_k3",)


@pytest.mark.parametrize(
    ("block_ops", "message"),
    [
        ({"s1_b0": ("dise",)}, "unknown op 'dise'; did you mean 'dice'"),
        ({"s4_b0": ("dice_k3",)}, "there is no block 's4_b0'; did you mean 's3_b0'"),
        ({"s1_b0": ()}, "block_ops of s1_b0: should be a list of ops"),
        ({"s1_b0": "dice_k3"}, "block_ops of s1_b0: should be a list of ops, got 'dice_k3'"),
        (["dice_k3"], "block_ops should map labels"),
        ({"s1_b0": ("skip",)}, "none of the ops skip fits into block s1_b0"),
    ],
)
def test_wrong_ops_of_single_blocks_are_refused(block_ops: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpaceSpec("shufflenetv2", ("separable_k3", "skip"), block_ops=block_ops)


def test_blocks_that_may_move_up_have_the_same_ops() -> None:
    with pytest.raises(ValueError, match="stage 4 may be left out"):
        SpaceSpec("mobilenetv1", ("separable_k3", "dice_k3", "skip"), block_ops={"s4_b2": ("dice_k3",)})


@pytest.mark.parametrize(
    "space", [SpaceSpec("mobilenetv3_small"), SpaceSpec("shufflenetv2", block_ops={"s1_b0": ["dice"]})]
)
def test_plain_data_and_back(space: SpaceSpec) -> None:
    described = space.to_dict()
    assert SpaceSpec.from_dict(json.loads(json.dumps(described))) == space
    for changed, said in (
        ({"depht": 3}, r"unknown fields \['depht'\]"),
        ({"widths": None}, "widths should be a list"),
        ({"num_classes": "ten"}, "wrong kind of value"),
    ):
        with pytest.raises(ValueError, match=said):
            SpaceSpec.from_dict({**described, **changed})
    with pytest.raises(ValueError, match=r"missing fields \['backbone'"):
        SpaceSpec.from_dict({})

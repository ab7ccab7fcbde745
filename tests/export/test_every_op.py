"""Every candidate op leaves with a network."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dicenas.architecture import Architecture
from dicenas.export import model_source
from dicenas.nets import Network, build, get_backbone
from dicenas.ops import expand_candidates, list_ops

DEPTHWISE = ("depthwise_k3", "depthwise_k5", "depthwise_k7")


def with_every_op(backbone: str) -> Architecture:
    """A network in which every candidate stands that the backbone has a place for."""
    family = get_backbone(backbone)
    stages = [["separable_k3"] for _ in range(family.num_stages)]  # where the shape changes not every op fits
    for number, candidate in enumerate(expand_candidates(list_ops())):
        if not family.is_left_out(candidate):
            stages[number % len(stages)].append(candidate)
    architecture = Architecture(backbone, 0.5, stages, image_size=(32, 32), num_classes=5)
    blocks = family.layout(architecture).stages
    kept = [[block.op for block in stage if family.fitting(block, [block.op or ""])] for stage in blocks]
    return architecture.replace(stages=tuple(map(tuple, kept)))


@pytest.mark.parametrize("backbone", ["shufflenetv2", "mobilenetv2", "resnet"])
def test_every_op_is_exported(backbone: str, trained: Callable[[Architecture], Network], tmp_path: Path) -> None:
    architecture = with_every_op(backbone)
    missing = set(expand_candidates(list_ops())) - {op for stage in architecture.stages for op in stage}
    # In MobileNetV2 the op changes the number of channels in every block, in ResNet to four times as many.
    shapeless = {"shufflenetv2": set(), "mobilenetv2": {"skip", "se", *DEPTHWISE}, "resnet": {"skip", "se"}}
    assert missing <= shapeless[backbone]

    network = trained(architecture)
    source = model_source(network)
    (tmp_path / "model.py").write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("exported_with_every_op", tmp_path / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    exported = module.build()
    exported.load_state_dict(network.state_dict())
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(exported.eval()(x), network.eval()(x), rtol=0, atol=0)
    assert max(map(len, source.splitlines())) <= 120


@pytest.mark.parametrize(("op", "uses_kernels"), [("dimconv_pw_k3", True), ("dw_pw_k3", False)])
def test_source_says_whether_kernels_serve_it(op: str, uses_kernels: bool) -> None:
    network = build(Architecture("shufflenetv2", 0.5, ((op, op),) * 3, image_size=(32, 32), num_classes=5))
    assert ("takes the kernels of dicenas" in model_source(network)) == uses_kernels

"""Exported programs hold standard operators only, whether the kernels are loaded or not."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from dicenas import fuse_for_inference
from dicenas.nets import dicenet
from dicenas.ops import DiCE, DimConv
from tests.kernels.test_cpu import assert_close

NETWORKS = {
    "dim_conv": lambda: DimConv(6, (7, 5)),
    "unit": lambda: DiCE(6, 6, (7, 5), 5),
    "fused unit": lambda: fuse_for_inference(DiCE(6, 6, (7, 5))),
    "dicenet": lambda: dicenet(0.2, num_classes=10, image_size=64),
    "fused dicenet": lambda: fuse_for_inference(dicenet(0.2, num_classes=10, image_size=64)),
}
EACH = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if "dicenet" in name else ()) for name in NETWORKS]
)


def network(name: str) -> nn.Module:
    return NETWORKS[name]().eval()


def native_and_other(name: str) -> list[Tensor]:
    if "dicenet" in name:
        return [torch.randn(2, 3, 64, 64), torch.randn(2, 3, 96, 32)]
    return [torch.randn(2, 6, 7, 5), torch.randn(2, 6, 4, 9)]


@EACH
def test_torch_export(name: str) -> None:
    net = network(name)
    for x in native_and_other(name):
        program = torch.export.export(net, (x,))
        assert {str(node.target).split(".")[0] for node in program.graph.nodes if node.op == "call_function"} <= {
            "aten",
            "<built-in function getitem>",
        }
        with torch.no_grad():
            assert_close(program.module()(x), net(x), 1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@EACH
def test_onnx(name: str, tmp_path: Path) -> None:
    net = network(name)
    for x in native_and_other(name):
        path = tmp_path / "net.onnx"
        torch.onnx.export(net, (x,), str(path), dynamo=True, opset_version=18, external_data=False, verbose=False)
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        assert {(each.domain, each.version) for each in model.opset_import} == {("", 18)}
        assert {node.domain for node in model.graph.node} == {""}
        assert len(model.functions) == 0
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        with torch.no_grad():
            assert_close(torch.from_numpy(found), net(x), 1e-5)

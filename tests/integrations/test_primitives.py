"""Tests of the candidate ops in other NAS code: DARTS, NNI's LayerChoice, NASLib."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dicenas.integrations.darts import primitives
from dicenas.integrations.layer_choice import layer_choices
from dicenas.integrations.naslib import make_primitive
from dicenas.ops import DiCE, DimConv


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("C", [16, 32, 64])
def test_darts_primitives(C: int, stride: int, affine: bool) -> None:
    size = 32 * 16 // C
    ops = primitives(image_size=32, channels=16)
    assert set(ops) == {
        *(f"separable_k{k}" for k in (3, 5, 7)),
        *(f"separable_se_k{k}" for k in (3, 5)),
        "dice_k3",
        "dice_k5",
    }
    for build in ops.values():
        op = build(C, stride, affine)
        y = op(torch.randn(2, C, stride * size, stride * size))
        assert y.shape == (2, C, size, size)
        y.sum().backward()
        norms = [m for m in op.modules() if isinstance(m, nn.BatchNorm2d)]
        assert norms
        assert all((norm.weight is not None) is affine for norm in norms)


def test_darts_native_size_follows_from_the_channels() -> None:
    op = primitives(image_size=32, channels=16, ops=["dice_k3"])["dice_k3"](64, 1, True)
    (dim_conv,) = (m for m in op.modules() if isinstance(m, DimConv))
    assert dim_conv.size == (8, 8)
    with pytest.raises(ValueError, match="a cell of 24 channels is no reduction of 32 pixels with 16 channels"):
        primitives(image_size=32, channels=16)["dice_k3"](24, 1, True)


class MixedOp(nn.Module):
    """The weighted sum that DARTS builds of its primitives, as published: names, channels, stride."""

    def __init__(self, OPS: Mapping[str, Any], C: int, stride: int) -> None:
        super().__init__()
        self._ops = nn.ModuleList(OPS[primitive](C, stride, False) for primitive in OPS)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        return sum((w * op(x) for w, op in zip(weights, self._ops, strict=True)), torch.zeros(()))


def test_darts_mixed_op_learns_which_op_to_take() -> None:
    mixed = MixedOp(primitives(16, 8, ["separable_k3", "dice_k3"]), 8, 2)
    alphas = torch.zeros(2, requires_grad=True)
    mixed(torch.randn(2, 8, 32, 32), alphas.softmax(0)).square().sum().backward()
    assert alphas.grad is not None
    assert alphas.grad.abs().min() > 0


def test_layer_choices_are_those_that_fit() -> None:
    choices = layer_choices(8, 12, stride=2, size=(7, 5), ops=("separable_k3", "dice_k3", "skip"), activation="relu")
    assert list(choices) == ["separable_k3", "dice_k3"]
    assert all(op(torch.randn(2, 8, 14, 10)).shape == (2, 12, 7, 5) for op in choices.values())
    assert "skip" in layer_choices(8, 8, size=(7, 7))
    with pytest.raises(ValueError, match="none of the ops skip maps 8 to 12 channels at stride 1"):
        layer_choices(8, 12, size=(7, 7), ops=["skip"])


def test_layer_choices_in_nni() -> None:
    from nni.nas.nn.pytorch import LayerChoice, ModelSpace

    import dicenas.search_spaces  # noqa: F401  (filters NNI's import warnings)

    class Space(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.block = LayerChoice(layer_choices(8, 8, size=(6, 6), ops=("separable_k3", "dice_k3")), label="block")

        def forward(self, x: Tensor) -> Tensor:
            return self.block(x)

    assert isinstance(Space().freeze({"block": "dice_k3"}).block, DiCE)


class AbstractPrimitive(nn.Module, metaclass=ABCMeta):
    """What NASLib asks of a primitive, by its published interface; NASLib itself does not install on Python 3.11."""

    def __init__(self, kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.init_params = {name: value for name, value in kwargs.items() if name not in {"self", "__class__"}}

    @abstractmethod
    def forward(self, x: Tensor, edge_data: Any) -> Tensor: ...

    @abstractmethod
    def get_embedded_ops(self) -> Any: ...


def test_naslib_primitive() -> None:
    op = make_primitive(AbstractPrimitive)("dice_k3", 8, 16, (6, 6), stride=2, affine=False)
    assert isinstance(op, AbstractPrimitive)
    assert op(torch.randn(2, 8, 12, 12), {}).shape == (2, 16, 6, 6)
    assert op.get_embedded_ops() is None
    assert op.get_op_name == "dice_k3"
    assert op.init_params["candidate"] == "dice_k3"
    assert not any(m.affine for m in op.modules() if isinstance(m, nn.BatchNorm2d))

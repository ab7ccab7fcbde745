"""Whatever the operators are given, they compute it or say what is wrong before a pointer is touched."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.kernels.test_cpu import arguments

op = torch.ops.dicenas
SHAPE = (2, 8, 5, 6)

#: For each operator arguments that it takes.
VALID = {
    "dim_conv": lambda: arguments(SHAPE),
    "dim_conv_backward": lambda: [torch.randn(2, 24, 5, 6), *arguments(SHAPE)],
    "dim_conv_local": lambda: [*arguments(SHAPE), torch.randn(8, 14)],
    "dice_unit": lambda: [
        *arguments(SHAPE),
        *(torch.randn(s) for s in ((8, 14), (8, 11), (2, 8), (8, 2))),
    ],
    "pointwise": lambda: [torch.randn(SHAPE), *(torch.randn(s) for s in ((3, 8), (3,), (3,)))],
}


def call(name: str, tensors: list[Tensor]) -> None:
    # Past the dispatcher, which would send a mixture of devices elsewhere.
    flags = (True, True) if name == "dim_conv_backward" else ()
    getattr(op, name).default._op_dk(torch._C.DispatchKey.CPU, *tensors, *flags)


SPOILT = {
    "longer": lambda t, axis: torch.cat((t, t.narrow(axis, 0, 1)), axis),
    "shorter": lambda t, axis: t.narrow(axis, 0, t.shape[axis] - 1),
    "empty": lambda t, axis: t.narrow(axis, 0, 0),
    "one axis more": lambda t, axis: t.unsqueeze(axis),
    "one axis less": lambda t, axis: t.select(axis, 0),
    "on another device": lambda t, axis: t.to("meta"),
}


def is_free(name: str, index: int, axis: int, how: str) -> bool:
    """Whether a size may be another: the batch, the map's, and the native one, which is the number of filters."""
    if how not in ("longer", "shorter", "empty"):
        return False
    if name == "dim_conv_backward":  # the gradient, which stands first, has the map's size
        return index in (3, 4) and axis == 0 and how != "empty"
    if name != "pointwise" and index in (2, 3):
        return axis == 0 and how != "empty"
    return index == 0 and (axis == 0 or (axis > 1 and how != "empty"))


@pytest.mark.parametrize("name", VALID)
@given(data=st.data())
def test_spoilt_arguments(name: str, data: st.DataObject) -> None:
    tensors = VALID[name]()
    call(name, tensors)
    index = data.draw(st.integers(0, len(tensors) - 1), label="argument")
    axis = data.draw(st.integers(0, tensors[index].dim() - 1), label="axis")
    how = data.draw(st.sampled_from(list(SPOILT)), label="how")
    tensors[index] = SPOILT[how](tensors[index], axis)
    if is_free(name, index, axis, how):
        call(name, tensors)
    else:
        with pytest.raises(ValueError, match="dicenas"):
            call(name, tensors)


@pytest.mark.parametrize("name", VALID)
@pytest.mark.parametrize("dtype", [torch.float64, torch.int32, torch.complex64, torch.bool])
def test_data_types_without_a_kernel(name: str, dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match="dicenas"):
        call(name, [t.to(dtype) for t in VALID[name]()])


@given(
    n=st.integers(0, 3),
    c=st.integers(1, 6),
    h=st.integers(1, 6),
    w=st.integers(1, 6),
    filters=st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6)),
    kernel_sizes=st.tuples(*[st.integers(1, 7)] * 3),
)
def test_any_combination_of_sizes(
    n: int, c: int, h: int, w: int, filters: tuple[int, int, int], kernel_sizes: tuple[int, int, int]
) -> None:
    tensors = [torch.randn(f, 1, k, k) for f, k in zip(filters, kernel_sizes, strict=True)]
    if filters[0] == c and len(set(kernel_sizes)) == 1 and kernel_sizes[0] in (3, 5):
        assert op.dim_conv(torch.randn(n, c, h, w), *tensors).shape == (n, 3 * c, h, w)
    else:
        with pytest.raises(ValueError, match="dicenas"):
            op.dim_conv(torch.randn(n, c, h, w), *tensors)

"""Mixed depth-wise convolution: the kernels that the channels have, and what it costs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dicenas.ops import build_op
from dicenas.ops.mixed import MixedConv, mixed_channels


@given(st.integers(1, 200), st.sampled_from((3, 5, 7, 9, 11)))
def test_channels_are_split_equally(channels: int, kernel_size: int) -> None:
    groups = (kernel_size - 1) // 2
    split = mixed_channels(channels, kernel_size)
    assert len(split) == groups
    assert sum(split) == channels
    assert set(split[1:]) <= {channels // groups}
    assert 0 <= split[0] - channels // groups < groups


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel_size", [3, 5, 7, 9, 11])
def test_closed_form_of_kernels(kernel_size: int, stride: int) -> None:
    """Each channel meets one kernel, which is that of a plain depth-wise convolution."""
    mixed = MixedConv(23, kernel_size, stride).double()
    x = torch.randn(2, 23, 15, 14, dtype=torch.float64)
    # One depth-wise convolution of the largest kernel, each channel's own in the middle of it.
    plain = nn.Conv2d(23, 23, kernel_size, stride, kernel_size // 2, groups=23, bias=False).double()
    nn.init.zeros_(plain.weight)
    start = 0
    for conv in mixed.convs:
        border = (kernel_size - conv.kernel_size[0]) // 2
        inside = slice(border, kernel_size - border)
        plain.weight.data[start : start + conv.out_channels, :, inside, inside] = conv.weight.data
        start += conv.out_channels
    torch.testing.assert_close(mixed(x), plain(x))
    assert [conv.kernel_size[0] for conv in mixed.convs] == list(range(3, kernel_size + 1, 2))


@pytest.mark.parametrize(("channels", "kernel_size"), [(1, 5), (4, 11), (8, 4), (8, 1)])
def test_impossible_kernels_are_refused(channels: int, kernel_size: int) -> None:
    with pytest.raises(ValueError, match=f"{channels} channels cannot have odd kernels from 3 to {kernel_size}"):
        MixedConv(channels, kernel_size)
    if kernel_size % 2 and kernel_size > 1:
        with pytest.raises(ValueError, match="'mixed' cannot map"):
            build_op("mixed", channels, channels, size=(4, 4), kernel_size=kernel_size)

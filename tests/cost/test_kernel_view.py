"""The kernel-level view: which operators a module runs, how often, and what is taken from a CUDA profile."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.autograd import DeviceType

from dicenas.cost import KernelTime, LatencySettings, kernel_times
from dicenas.cost.kernel_view import _kernels
from dicenas.nets import dicenet


def test_operators_on_the_cpu() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.Sigmoid())
    found = kernel_times(net, (3, 9, 9), LatencySettings(threads=1), repeats=3)
    calls = {kernel.name: kernel.calls for kernel in found}
    assert (calls["aten::conv2d"], calls["aten::sigmoid"]) == (2, 1)
    assert [kernel.time_ms for kernel in found] == sorted((kernel.time_ms for kernel in found), reverse=True)
    assert all(kernel.time_ms > 0 for kernel in found)
    assert net.training


def test_the_runtime_is_that_of_the_settings() -> None:
    net = dicenet(0.1, 5, 32)
    norms = {
        runtime: sum(
            kernel.calls
            for kernel in kernel_times(net, (3, 32, 32), LatencySettings(runtime=runtime), repeats=1)
            if kernel.name == "aten::batch_norm"
        )
        for runtime in ("eager", "fused")
    }
    assert norms["eager"] > norms["fused"]


def test_kernels_of_a_cuda_profile() -> None:
    def event(key: str, device: DeviceType, us: float, count: int = 4, **more: Any) -> Any:
        fields = {"self_device_time_total": us, "self_cpu_time_total": us, "is_user_annotation": False}
        return SimpleNamespace(key=key, device_type=device, count=count, **{**fields, **more})

    events = [
        event("aten::conv2d", DeviceType.CPU, 900.0),
        event("relu_kernel", DeviceType.CUDA, 100.0),
        event("gemm", DeviceType.CUDA, 300.0, count=8),
        event("ProfilerStep", DeviceType.CUDA, 500.0, is_user_annotation=True),
        event("Memset", DeviceType.CUDA, 0.0),
    ]
    assert _kernels(events, True, 4) == [KernelTime("gemm", 2, 0.075), KernelTime("relu_kernel", 1, 0.025)]
    assert [kernel.name for kernel in _kernels(events, False, 4)] == ["aten::conv2d"]


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="repeats 0"):
        kernel_times(nn.Identity(), (1,), repeats=0)
    with pytest.raises(ValueError, match="does not see into onnxruntime"):
        kernel_times(nn.Identity(), (1,), LatencySettings(runtime="onnxruntime"))


def test_kernels_on_the_gpu(gpu: torch.device) -> None:
    found = kernel_times(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), (3, 9, 9), LatencySettings(device=str(gpu)))
    assert found
    assert not any(kernel.name.startswith("aten::") for kernel in found)

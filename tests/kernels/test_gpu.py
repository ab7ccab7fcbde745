"""What a GPU alone can show; without one the launcher stands in for it."""

from __future__ import annotations

import pytest
import torch

from dicenas.ops import kernels
from dicenas.ops.kernels import cuda


def test_asking_for_a_gpu_in_a_compiled_function(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(cuda, "launcher", lambda device: asked.append(device))

    def function(x: torch.Tensor) -> torch.Tensor:
        return x + 1 if kernels.available(torch.device("cuda", 0)) else x - 1

    x = torch.randn(3)
    assert torch.equal(torch.compile(function, fullgraph=True)(x), x - 1)
    assert asked
    assert set(asked) == {torch.device("cuda", 0)}


def test_switched_off_kernels_leave_gpus_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DICENAS_KERNELS", "off")
    assert cuda.launcher(torch.device("cuda", 0)) is None


def test_failing_code_is_reported_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(*arguments: object) -> None:
        raise cuda.DriverError("cuModuleLoadData failed with code 35: driver too old")

    monkeypatch.setattr(cuda, "_seen", {7})
    monkeypatch.setattr(cuda, "DriverLauncher", refuse)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(cuda.nvrtc, "compile_cubin", lambda capability: b"code")
    cuda._launcher.cache_clear()
    device = torch.device("cuda", 7)
    assert cuda.launcher(device) is None
    assert cuda.launcher(device) is None
    cuda._launcher.cache_clear()
    (record,) = caplog.records
    assert "driver too old" in record.getMessage()
    assert "dicenas kernels" in record.getMessage()

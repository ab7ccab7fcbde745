from __future__ import annotations

import platform

import pytest
import torch

from dicenas.cost import device_name, resolve_device


@pytest.fixture
def cuda_devices(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """As many CUDA devices as the test says, the second of them current."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: request.param)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)


def test_cpu() -> None:
    assert resolve_device("cpu") == resolve_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "cuda:-1", "cpu cuda"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(ValueError, match="expected cpu, cuda or cuda:<number>"):
        resolve_device(name)


@pytest.mark.parametrize("name", ["meta", "mps", "xpu:0"])
def test_devices_that_are_not_supported(name: str) -> None:
    with pytest.raises(ValueError, match=f"device {name} is not supported; expected cpu, cuda"):
        resolve_device(name)


@pytest.mark.parametrize("cuda_devices", [0], indirect=True)
@pytest.mark.usefixtures("cuda_devices")
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:3"])
def test_cuda_where_there_is_none(name: str) -> None:
    with pytest.raises(ValueError, match=f"device {name} is asked for, but torch finds no CUDA device here; use cpu"):
        resolve_device(name)


@pytest.mark.parametrize("cuda_devices", [2], indirect=True)
@pytest.mark.usefixtures("cuda_devices")
def test_cuda_index() -> None:
    assert resolve_device("cuda") == torch.device("cuda:1")
    assert resolve_device("cuda:0") == torch.device("cuda:0")
    with pytest.raises(ValueError, match="cuda:2 is asked for, but there are only 2: cuda:0 to cuda:1"):
        resolve_device("cuda:2")


def test_the_processor_has_a_name() -> None:
    name = device_name(torch.device("cpu"))
    assert torch.backends.cpu.get_cpu_capability() in name
    assert not name.startswith(" ")
    assert platform.node() not in name

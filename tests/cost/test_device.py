from __future__ import annotations

import platform
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dicenas.cost import clock_mhz, device, device_name, driver_version, resolve_device
from dicenas.cost.device import last_cache_bytes


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


CPU = torch.device("cpu")


def test_clock_and_cache_of_the_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor : 0\nmodel name : Fast 1\ncpu MHz\t\t: 800.5\n\nprocessor : 1\ncpu MHz : 2596.148\n")
    monkeypatch.setattr(device, "_CPUINFO", info)
    assert clock_mhz(CPU) == 2596.148
    assert device_name(CPU).startswith("Fast 1 (")
    info.write_text("processor : 0\n")  # as on ARM
    assert clock_mhz(CPU) is None
    monkeypatch.setattr(device, "_CPUINFO", tmp_path / "none")  # as on other systems
    assert clock_mhz(CPU) is None
    assert device_name(CPU)
    assert driver_version(CPU) is None

    monkeypatch.setattr(device, "_CPU_CACHES", tmp_path)
    assert last_cache_bytes(CPU) == 32 * 2**20
    for number, size in enumerate(("32K", "1024K", "12M\n")):
        (tmp_path / f"index{number}").mkdir()
        (tmp_path / f"index{number}" / "size").write_text(size)
    assert last_cache_bytes(CPU) == 12 * 2**20


class NVMLError(Exception):
    pass


@pytest.mark.parametrize("fails", [False, True])
def test_clock_and_driver_of_a_graphics_card(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def clock_rate(which: torch.device) -> int:
        if fails:
            raise NVMLError("not supported")  # as within MIG
        return 1980

    nvml: Any = SimpleNamespace(NVMLError=NVMLError, nvmlInit=lambda: None, nvmlSystemGetDriverVersion=lambda: "570.1")
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(torch.cuda, "clock_rate", clock_rate)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(L2_cache_size=50 * 2**20))
    card = torch.device("cuda:0")
    assert clock_mhz(card) == (None if fails else 1980)
    assert driver_version(card) == "570.1"
    assert last_cache_bytes(card) == 50 * 2**20
    monkeypatch.setitem(sys.modules, "pynvml", None)  # not installed
    assert driver_version(card) is None
    assert clock_mhz(card) is None

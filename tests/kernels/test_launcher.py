"""The calls of the CUDA driver, answered by a stand-in that hands launches to the emulation: no GPU is needed.

The stand-in knows the streams, the current device and whether a graph is being captured, and keeps to the driver's
rules. What only a GPU can show is in test_gpu.py.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dicenas.ops import kernels
from dicenas.ops.kernels import build, cuda, launches
from tests.kernels.emulation import EmulationLauncher, compile_emulation, kernels_file
from tests.kernels.test_cpu import TOLERANCE, arguments, assert_close, reference_in_double
from tests.kernels.test_cuda import fused_reference, run_all

INVALID_IMAGE, INSUFFICIENT_DRIVER, NOT_PERMITTED_IN_CAPTURE = 200, 35, 900
DEVICES = 3


class StandIn:
    """The driver and the state of ``torch.cuda``, with a record of the calls."""

    def __init__(self, emulation: Path) -> None:
        self.emulation = EmulationLauncher(emulation)
        self.calls: list[str] = []
        self.launches: list[tuple[int, int, str]] = []  # device, stream, kernel
        self.device = 0
        self.streams = [100 + device for device in range(DEVICES)]
        self.capturing = False
        self.refuses: dict[bytes, int] = {}  # code that does not load, and the answer
        self.functions: dict[int, tuple[int, str]] = {}  # device and name
        self.modules: dict[int, int] = {}  # device

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cu"):
            raise AttributeError(name)

        def call(*arguments: Any) -> int:
            self.calls.append(name)
            if self.capturing and name != "cuLaunchKernel":
                return NOT_PERMITTED_IN_CAPTURE
            own = re.sub("([A-Z])", lambda match: f"_{match[1].lower()}", name[2:])  # cuLaunchKernel: _launch_kernel
            return int(getattr(self, own)(*arguments) or 0)

        return call

    def _get_error_string(self, status: int, text: Any) -> None:
        text._obj.value = f"error {status}".encode()

    def _module_load_data(self, module: Any, code: bytes) -> int:
        if code in self.refuses:
            return self.refuses[code]
        module._obj.value = 1000 + len(self.modules)
        self.modules[module._obj.value] = self.device
        return 0

    def _module_get_function(self, function: Any, module: ctypes.c_void_p, name: bytes) -> None:
        assert module.value is not None
        function._obj.value = 5000 + len(self.functions)
        self.functions[function._obj.value] = (self.modules[module.value], name.decode())

    def _func_get_attribute(self, value: Any, attribute: int, function: ctypes.c_void_p) -> None:
        assert function.value in self.functions
        assert attribute == 4
        value._obj.value = 64

    def _launch_kernel(self, function: ctypes.c_void_p, *rest: Any) -> int:
        *shape, stream, parameters, extra = rest
        grid, block, shared_bytes = tuple(shape[:3]), tuple(shape[3:6]), shape[6]
        assert extra is None
        assert function.value is not None
        device, name = self.functions[function.value]
        assert device == self.device, "the function belongs to another device's context"
        assert stream == self.streams[self.device]
        assert block[1:] == (1, 1)
        self.launches.append((device, stream, name))
        arguments = ctypes.cast(parameters[0], ctypes.POINTER(launches.Arguments)).contents
        self.emulation.launch(name, grid, block[0], shared_bytes, arguments)
        return 0

    @contextmanager
    def guard(self, device: torch.device) -> Iterator[None]:
        before, self.device = self.device, device.index
        yield
        self.device = before

    def current_stream(self, device: torch.device | None = None) -> SimpleNamespace:
        index = self.device if device is None else device.index
        return SimpleNamespace(cuda_stream=self.streams[index], synchronize=lambda: self.calls.append("synchronize"))


@pytest.fixture(scope="module")
def emulation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("emulation") / "emulation.so"
    compile_emulation(kernels_file(), output)
    return output


@pytest.fixture
def stand_in(emulation: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    driver = StandIn(emulation)
    monkeypatch.setattr(cuda, "_driver", lambda: driver)
    monkeypatch.setattr(cuda, "_seen", set())
    monkeypatch.setattr(cuda, "find_cuda_code", lambda: None)
    monkeypatch.setattr(cuda.nvrtc, "compile_cubin", lambda capability: b"compiled for %d%d" % capability)
    for name, replacement in {
        "device": driver.guard,
        "current_device": lambda: driver.device,
        "current_stream": driver.current_stream,
        "get_device_properties": lambda device: SimpleNamespace(multi_processor_count=4),
        "get_device_capability": lambda device: (9, 0),
        "is_current_stream_capturing": lambda: driver.capturing,
    }.items():
        monkeypatch.setattr(torch.cuda, name, replacement)
    cuda._load.cache_clear()
    yield driver
    cuda._load.cache_clear()


def launcher_of(index: int) -> cuda.DriverLauncher:
    found = cuda.launcher(torch.device("cuda", index))
    assert found is not None
    return found


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_values_and_gradients(dtype: torch.dtype, stand_in: StandIn) -> None:
    tensors = arguments((2, 20, 9, 13), 3, dtype)
    grad, local = torch.randn(2, 60, 9, 13).to(dtype), torch.randn(20, 14)
    expected, grads = reference_in_double(tensors, grad)
    launcher = launcher_of(0)
    for actual, wanted in zip(run_all(launcher, tensors, grad), [expected, *grads], strict=True):
        assert_close(actual, wanted, TOLERANCE[dtype])
    fused = launches.dim_conv_local(launcher, *tensors, local)
    assert_close(fused, fused_reference([t.double() for t in tensors], local.double()), TOLERANCE[dtype])


def test_launches_go_to_the_current_stream_of_the_tensors_device(stand_in: StandIn) -> None:
    tensors = arguments((1, 4, 3, 2))
    for device, stream in ((0, 7), (2, 8), (2, 9), (0, 7)):
        stand_in.streams[device] = stream
        stand_in.launches.clear()
        for current in range(DEVICES):
            stand_in.device = current
            run_all(launcher_of(device), tensors, torch.randn(1, 12, 3, 2))
            assert stand_in.device == current
        assert {launch[:2] for launch in stand_in.launches} == {(device, stream)}


def test_capture_holds_launches_alone(stand_in: StandIn) -> None:
    """The driver refuses everything else in it, and what a kernel needs was fetched before, used or not."""
    launcher = launcher_of(1)
    stand_in.capturing = True
    stand_in.calls.clear()
    for dtype in TOLERANCE:
        for kernel_size in (3, 5):
            tensors = arguments((2, 5, 4, 3), kernel_size, dtype)
            run_all(launcher, tensors, torch.randn(2, 15, 4, 3).to(dtype))
            launches.dim_conv_local(launcher, *tensors, torch.randn(5, 14))
    assert set(stand_in.calls) == {"cuLaunchKernel"}
    assert {name for _, _, name in stand_in.launches} == set(launches.KERNELS)


def test_nothing_is_loaded_while_a_graph_is_captured(stand_in: StandIn) -> None:
    device = torch.device("cuda", 0)
    stand_in.capturing = True
    assert cuda.launcher(device) is None
    assert stand_in.calls == []
    stand_in.capturing = False
    assert cuda.launcher(device) is not None
    stand_in.capturing = True
    assert cuda.launcher(device) is not None


def test_the_current_device_is_meant_by_a_device_without_a_number(stand_in: StandIn) -> None:
    stand_in.device = 2
    found = cuda.launcher(torch.device("cuda"))
    assert found is launcher_of(2)
    assert set(stand_in.modules.values()) == {2}


def test_code_is_loaded_once_a_device(stand_in: StandIn) -> None:
    assert launcher_of(1) is launcher_of(1)
    assert launcher_of(0) is not launcher_of(1)
    assert stand_in.calls.count("cuModuleLoadData") == 2


@pytest.mark.parametrize("status", [INSUFFICIENT_DRIVER, INVALID_IMAGE])
def test_code_that_the_driver_is_too_old_for(
    status: int, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "code.fatbin").write_bytes(b"ahead")
    monkeypatch.setattr(cuda, "find_cuda_code", lambda: tmp_path / "code.fatbin")
    assert launcher_of(0).source == str(tmp_path / "code.fatbin")
    stand_in.refuses = {b"ahead": status}
    assert launcher_of(1).source == "NVRTC"
    assert caplog.records == []
    stand_in.refuses |= {b"compiled for 90": status}
    assert cuda.launcher(torch.device("cuda", 2)) is None
    assert cuda.launcher(torch.device("cuda", 2)) is None
    (record,) = caplog.records
    for part in ("cuda:2", f"code {status}: error {status}", "NVRTC", "dicenas kernels"):
        assert part in record.getMessage()


@pytest.mark.parametrize("error", [build.BuildError("this torch is built without CUDA"), OSError("no libcuda.so.1")])
def test_without_any_code_everything_runs_in_plain_pytorch(
    error: Exception, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(capability: tuple[int, int]) -> bytes:
        raise error

    monkeypatch.setattr(cuda.nvrtc, "compile_cubin", fail)
    assert not kernels.available("cuda:0")
    assert not kernels.available("cuda:0")
    (record,) = caplog.records
    assert str(error) in record.getMessage()
    with pytest.raises(RuntimeError, match="not available on cuda:0"):
        cuda._require(torch.device("cuda", 0))


def test_a_failing_launch_is_an_error(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = launcher_of(0)
    monkeypatch.setattr(stand_in, "_launch_kernel", lambda *arguments: 700)
    with pytest.raises(cuda.DriverError, match="cuLaunchKernel failed with code 700: error 700"):
        launches.dim_conv(launcher, *arguments((1, 4, 3, 2)))


def test_description(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU {index}")
    assert kernels.describe()[1:] == [("cuda:0", "yes", "GPU 0, NVRTC"), ("cuda:1", "yes", "GPU 1, NVRTC")]
    stand_in.refuses[b"compiled for 90"] = INSUFFICIENT_DRIVER
    cuda._load.cache_clear()
    for row in kernels.describe()[1:]:
        assert row[1] == "no"
        assert "error 35" in row[2]
        assert "dicenas kernels build" in row[2]
    monkeypatch.setenv("DICENAS_KERNELS", "off")
    assert kernels.describe()[1] == ("cuda:0", "no", "GPU 0, switched off by DICENAS_KERNELS=off")


@pytest.mark.parametrize("code", [None, Path("code.fatbin")])
def test_description_without_a_gpu(code: Path | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(kernels, "find_cuda_code", lambda: code)
    device, used, details = kernels.describe()[1]
    assert (device, used) == ("cuda", "no")
    assert ("NVRTC" if code is None else "code.fatbin") in details


def test_asking_for_a_gpu_in_a_compiled_function(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(cuda, "launcher", lambda device: asked.append(device))

    def function(x: torch.Tensor) -> torch.Tensor:
        return x + 1 if kernels.available(torch.device("cuda", 0)) else x - 1

    x = torch.randn(3)
    assert torch.equal(torch.compile(function, fullgraph=True, backend="eager")(x), x - 1)
    assert asked
    assert set(asked) == {torch.device("cuda", 0)}


def test_switched_off_kernels_leave_gpus_alone(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DICENAS_KERNELS", "off")
    assert cuda.launcher(torch.device("cuda", 0)) is None
    assert stand_in.calls == []

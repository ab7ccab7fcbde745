"""Calls of the CUDA kernels through the driver: no CUDA runtime, no compiler, any version of torch."""

from __future__ import annotations

import ctypes
import logging
from functools import cache
from typing import Any

import torch

from dicenas.ops.kernels import launches, nvrtc
from dicenas.ops.kernels.build import BuildError
from dicenas.ops.kernels.launches import Arguments
from dicenas.ops.kernels.library import find_cuda_code, switched_off

__all__ = [
    "DriverError",
    "DriverLauncher",
    "describe",
    "dice_unit",
    "dim_conv",
    "dim_conv_backward",
    "dim_conv_local",
    "launcher",
]

_logger = logging.getLogger(__name__)
_NUMBER_OF_REGISTERS = 4  # CU_FUNC_ATTRIBUTE_NUM_REGS


class DriverError(RuntimeError):
    """The CUDA driver refused a call."""


@cache
def _driver() -> ctypes.CDLL:
    driver = ctypes.CDLL("libcuda.so.1")
    pointer, unsigned = ctypes.c_void_p, ctypes.c_uint
    driver.cuLaunchKernel.argtypes = [pointer, *[unsigned] * 7, pointer, pointer, pointer]
    return driver


def _call(name: str, *arguments: Any) -> None:
    status = getattr(_driver(), name)(*arguments)
    if status:
        text = ctypes.c_char_p()
        _driver().cuGetErrorString(status, ctypes.byref(text))
        message = (text.value or b"unknown error").decode()
        raise DriverError(f"{name} failed with code {status}: {message}")


class DriverLauncher:
    """Launches the kernels of one device on torch's current stream.

    All that a launch needs is fetched here: while a CUDA graph is captured a driver may not load code, which it would
    otherwise put off until a kernel is used for the first time.
    """

    def __init__(self, device: torch.device, code: bytes, source: str) -> None:
        self.device = device
        self.source = source
        self.processors = torch.cuda.get_device_properties(device).multi_processor_count
        self._functions: dict[str, ctypes.c_void_p] = {}
        self._module = ctypes.c_void_p()
        with torch.cuda.device(device):
            torch.cuda.current_stream().synchronize()  # makes torch's context the current one
            _call("cuModuleLoadData", ctypes.byref(self._module), code)
            for name in launches.KERNELS:
                self._functions[name] = self._load_function(name)

    def _load_function(self, name: str) -> ctypes.c_void_p:
        function, registers = ctypes.c_void_p(), ctypes.c_int()
        _call("cuModuleGetFunction", ctypes.byref(function), self._module, name.encode())
        # A question about the function makes the driver load it.
        _call("cuFuncGetAttribute", ctypes.byref(registers), _NUMBER_OF_REGISTERS, function)
        return function

    def launch(
        self, name: str, grid: tuple[int, int, int], threads: int, shared_bytes: int, arguments: Arguments
    ) -> None:
        """Launch a kernel on the device's current stream."""
        function = self._functions[name]
        parameters = (ctypes.c_void_p * 1)(ctypes.addressof(arguments))
        with torch.cuda.device(self.device):
            stream = torch.cuda.current_stream().cuda_stream
            _call("cuLaunchKernel", function, *grid, threads, 1, 1, shared_bytes, stream, parameters, None)


@cache
def _load(index: int) -> DriverLauncher | str:
    """Return the launcher of a device, or why there is none."""
    device = torch.device("cuda", index)
    reasons = []
    code = find_cuda_code()
    if code is None:
        reasons.append("no CUDA code was compiled ahead")
    else:
        try:
            return DriverLauncher(device, code.read_bytes(), str(code))
        except (DriverError, OSError) as error:
            reasons.append(f"{code} does not load: {error}")
    try:
        return DriverLauncher(device, nvrtc.compile_cubin(torch.cuda.get_device_capability(device)), "NVRTC")
    except (BuildError, DriverError, OSError) as error:
        reasons.append(f"compiling with NVRTC failed: {error}")
    reason = "; ".join(reasons)
    _logger.warning(
        "dicenas runs in plain PyTorch on %s (%s). Run `dicenas kernels` for what can be done.", device, reason
    )
    return reason


def launcher(device: torch.device) -> DriverLauncher | None:
    """Return the launcher of a CUDA device, or ``None`` where the kernels cannot be used, which is logged once.

    The code is loaded, or compiled, at the first call for a device. Neither may happen while a CUDA graph is captured:
    before that first call a capture gets plain PyTorch.
    """
    if switched_off():
        return None
    index = torch.cuda.current_device() if device.index is None else device.index
    if index not in _seen:
        if torch.cuda.is_current_stream_capturing():
            return None
        _seen.add(index)
    found = _load(index)
    return found if isinstance(found, DriverLauncher) else None


_seen: set[int] = set()


def describe(device: torch.device) -> tuple[bool, str]:
    """Return whether the kernels are used on a CUDA device, and where their code comes from or what is in the way."""
    found = launcher(device)
    if found is not None:
        return True, found.source
    if switched_off():
        return False, "switched off by DICENAS_KERNELS=off"
    return False, f"{_load(device.index)}; get nvcc and run `dicenas kernels build`, or a torch built with CUDA"


def _require(device: torch.device) -> DriverLauncher:
    found = launcher(device)
    if found is None:
        raise RuntimeError(f"the CUDA kernels are not available on {device}: run `dicenas kernels`")
    return found


def _on_device(function: Any, x_position: int) -> Any:
    def run(*arguments: Any) -> Any:
        return function(_require(arguments[x_position].device), *arguments)

    return run


dim_conv = _on_device(launches.dim_conv, 0)
dim_conv_local = _on_device(launches.dim_conv_local, 0)
dim_conv_backward = _on_device(launches.dim_conv_backward, 1)
dice_unit = _on_device(launches.dice_unit, 0)

"""The launcher of the host emulation."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

from dicenas.ops.kernels import build
from dicenas.ops.kernels.launches import Arguments

FOLDER = Path(__file__).resolve().parent


def compile_emulation(kernels: Path, output: Path, *flags: str) -> None:
    """Compile the emulation of a file of kernels."""
    command = ["g++", "-O1", "-g", "-std=c++17", "-shared", "-fPIC", f'-DKERNELS="{kernels}"', *flags]
    subprocess.run([*command, str(FOLDER / "emulation.cpp"), "-o", str(output)], check=True, capture_output=True)


def kernels_file() -> Path:
    folder = build.source_folder()
    assert folder is not None
    return folder / "dicenas_cuda_kernels.cuh"


class EmulationError(RuntimeError):
    """The emulation refused a launch or found threads that miss a barrier."""


class EmulationLauncher:
    """Launches kernels in the emulation; ``processors`` is that of a device to plan for."""

    def __init__(self, library: Path, order: int = 0, processors: int = 2) -> None:
        self._library = ctypes.CDLL(str(library))
        self.order = order
        self.processors = processors
        self.launched: list[str] = []

    def launch(
        self, name: str, grid: tuple[int, int, int], threads: int, shared_bytes: int, arguments: Arguments
    ) -> None:
        self.launched.append(name)
        status = self._library.emulate(name.encode(), *grid, threads, shared_bytes, ctypes.byref(arguments), self.order)
        if status:
            raise EmulationError(f"{name}: status {status}")

"""The launcher of the host emulation, and how the emulation is compiled."""

from __future__ import annotations

import ctypes
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from dicenas.ops.kernels import build
from dicenas.ops.kernels.launches import Arguments

__all__ = ["ADDRESSES", "RACES", "EmulationError", "EmulationLauncher", "compile_emulation", "kernels_file"]

FOLDER = Path(__file__).resolve().parent

#: Flags for the kernels: to find accesses outside any buffer (in a process of its own), and races.
ADDRESSES = ("-fsanitize=address", "-fno-omit-frame-pointer")
RACES = ("-fsanitize=thread",)

_COMPILE = ("g++", "-O1", "-gdwarf-4", "-std=c++17", "-fPIC")


def _run(*command: str | Path) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@cache
def _runtime() -> tuple[TemporaryDirectory[str], list[Path]]:
    """What runs the kernels, which is the same whatever looks at them."""
    folder = TemporaryDirectory(prefix="dicenas-emulation-")
    objects = [Path(folder.name) / f"{name}.o" for name in ("emulation", "races")]
    for output in objects:
        _run(*_COMPILE, "-c", FOLDER / f"{output.stem}.cpp", "-o", output)
    return folder, objects


def compile_emulation(kernels: Path, output: Path, *flags: str) -> None:
    """Compile the emulation of a file of kernels; ``flags`` are for the kernels alone."""
    code = output.with_suffix(".o")
    _run(*_COMPILE, *flags, f'-DKERNELS="{kernels}"', "-c", FOLDER / "emulation_kernels.cpp", "-o", code)
    # The functions that -fsanitize=thread calls are those of races.cpp.
    _run("g++", "-shared", *(flag for flag in flags if flag not in RACES), code, *_runtime()[1], "-o", output)


def kernels_file() -> Path:
    folder = build.source_folder()
    assert folder is not None
    return folder / "dicenas_cuda_kernels.cuh"


class EmulationError(RuntimeError):
    """The emulation refused a launch, found threads that miss a barrier, or a race."""


class EmulationLauncher:
    """Launches kernels in the emulation; ``processors`` is that of a device to plan for."""

    def __init__(self, library: Path, order: int = 0, processors: int = 2) -> None:
        self._path = library
        self._library = ctypes.CDLL(str(library))
        self._library.race_found.restype = self._library.kernel_names.restype = ctypes.c_char_p
        self.order = order
        self.processors = processors
        self.launched: list[str] = []

    def kernels(self) -> list[str]:
        """Return the names of all kernels, sorted."""
        return self._library.kernel_names().decode().split()

    def launch(
        self, name: str, grid: tuple[int, int, int], threads: int, shared_bytes: int, arguments: Arguments
    ) -> None:
        self.launched.append(name)
        status = self._library.emulate(name.encode(), *grid, threads, shared_bytes, ctypes.byref(arguments), self.order)
        if status:
            raise EmulationError(f"{name}: {self._describe(status)}")

    def _describe(self, status: int) -> str:
        words = {1: "no such kernel", 2: "a device refuses this launch", 3: "not all threads reach a barrier"}
        if status in words:
            return words[status]
        memory, *places, accesses = self._library.race_found().decode().split(" ", 3)
        lines = _run("addr2line", "-s", "-e", self._path, *places).split()
        return f"race in {memory} memory: {accesses} ({lines[0]}, {lines[1]})"

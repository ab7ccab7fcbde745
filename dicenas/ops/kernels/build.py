"""Compiling the kernel libraries with g++ and nvcc.

Standard library only: ``setup.py`` loads this file by its path, before torch or this package can be imported.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
from pathlib import Path

__all__ = [
    "ARCHITECTURES",
    "KINDS",
    "SUFFIXES",
    "BuildError",
    "build_in_cache",
    "build_library",
    "cache_folder",
    "cached_libraries",
    "compile_command",
    "library_name",
    "source_folder",
    "source_hash",
]

#: The libraries that can be built.
KINDS = ("cpu", "cuda")

#: Compute capabilities that the CUDA library holds machine code for; newer devices compile its PTX.
ARCHITECTURES = ("75", "80", "86", "89", "90", "100", "120")

#: File name suffixes of the sources.
SUFFIXES = (".cpp", ".cu", ".cuh", ".h")

_FOLDER = Path(__file__).resolve().parent

_SOURCES = {
    "cpu": (
        "dicenas_cpu.cpp",
        "dicenas_cpu.h",
        "dicenas_cpu_dim_conv.h",
        "dicenas_cpu_downsample.h",
        "dicenas_cpu_kernels.h",
        "dicenas_cpu_march.h",
        "dicenas_cpu_pointwise.h",
        "dicenas_cpu_resize.h",
        "dicenas_cpu_selections.h",
        "dicenas_cpu_training.h",
        "dicenas_cpu_vectors.h",
    ),
    "cuda": ("dicenas_cuda.cu", "dicenas_cuda_kernels.cuh"),
}

# Without -fno-trapping-math comparisons are not turned into vector instructions everywhere.
_CPU_FLAGS = (
    "-O3",
    "-std=c++17",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wno-psabi",
    "-fopenmp",
)


class BuildError(RuntimeError):
    """A library could not be built; the message says why and shows the compiler's output."""


def source_folder() -> Path | None:
    """Return the folder of the sources: ``dicenas/csrc`` where installed, ``csrc`` of a checkout, or ``None``."""
    package = _FOLDER.parent.parent
    for folder in (package / "csrc", package.parent / "csrc"):
        if (folder / "dicenas_cpu.cpp").is_file():
            return folder
    return None


def _sources(kind: str) -> tuple[Path, ...]:
    if kind not in _SOURCES:
        raise ValueError(f"unknown kernel library {kind!r}; expected one of {', '.join(KINDS)}")
    folder = source_folder()
    if folder is None:
        raise BuildError("the kernels' sources are not installed: install dicenas from its repository or sdist")
    return tuple(folder / name for name in _SOURCES[kind])


def source_hash(kind: str) -> str:
    """Return a hash of the sources of ``kind``, which a library built from them holds.

    Raises:
        BuildError: The sources are not installed.
    """
    digest = hashlib.sha256()
    for path in _sources(kind):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def library_name(kind: str) -> str:
    """Return the file name of the library of ``kind``: a shared library, or CUDA code that the driver loads.

    Raises:
        BuildError: The sources are not installed; the name of CUDA code holds their hash.
    """
    return "libdicenas_cpu.so" if kind == "cpu" else f"dicenas_cuda_{source_hash(kind)}.fatbin"


def _find_nvcc() -> str:
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if home := os.environ.get(variable):
            nvcc = Path(home) / "bin" / "nvcc"
            if nvcc.is_file():
                return str(nvcc)
    if found := shutil.which("nvcc"):
        return found
    if (nvcc := Path("/usr/local/cuda/bin/nvcc")).is_file():
        return str(nvcc)
    raise BuildError("no nvcc found: install the CUDA toolkit and set CUDA_HOME to it, or put nvcc on PATH")


def _find_compiler() -> list[str]:
    named = shlex.split(os.environ.get("CXX", ""))
    for candidate in (named, ["g++"], ["clang++"]):
        if candidate and shutil.which(candidate[0]):
            return candidate
    raise BuildError("no C++ compiler found: install g++ or clang++, or name one in CXX")


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"{command[0]} does not start: {error}") from error
    if done.returncode:
        output = (done.stderr + done.stdout).strip()[-4000:]
        raise BuildError(f"{shlex.join(command)}\nended with exit code {done.returncode}:\n{output}")
    return done.stdout


def compile_command(kind: str, output: Path) -> list[str]:
    """Return the command that compiles the library of ``kind`` to ``output``.

    Raises:
        BuildError: There is no compiler, or no sources.
    """
    source = str(_sources(kind)[0])
    if kind == "cpu":
        if platform.system() != "Linux":
            raise BuildError(f"the kernels are built for Linux; on {platform.system()} dicenas uses plain PyTorch")
        return [
            *_find_compiler(), *_CPU_FLAGS, "-fPIC", "-fvisibility=hidden", "-shared",
            f'-DDICENAS_SOURCE_HASH="{source_hash(kind)}"', source, "-o", str(output),
        ]  # fmt: skip
    nvcc = _find_nvcc()
    known = _run([nvcc, "--list-gpu-code"]).split()
    wanted = os.environ.get("DICENAS_CUDA_ARCHS", ";".join(ARCHITECTURES)).split(";")
    architectures = [arch for arch in wanted if f"sm_{arch}" in known]
    if not architectures:
        raise BuildError(f"{nvcc} supports none of the compute capabilities {', '.join(wanted)}")
    code = [flag for arch in architectures for flag in ("-gencode", f"arch=compute_{arch},code=sm_{arch}")]
    newest = architectures[-1]
    code += ["-gencode", f"arch=compute_{newest},code=compute_{newest}"]
    return [
        nvcc, "-O3", "-std=c++17", "--fatbin", "--threads", "0", *code, source, "-o", str(output),
    ]  # fmt: skip


def build_library(kind: str, output: Path) -> None:
    """Compile the library of ``kind`` and put it at ``output``; an existing one is replaced in one step.

    Raises:
        BuildError: There is no compiler or no sources, or the compiler failed.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        _run(compile_command(kind, temporary))
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)


def cache_folder() -> Path:
    """Return the folder of libraries compiled on this machine, below ``XDG_CACHE_HOME`` or ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "dicenas" / "kernels"


def cached_libraries(kind: str) -> list[Path]:
    """Return the cached libraries of ``kind`` that were built from the present sources."""
    return sorted(cache_folder().glob(f"{source_hash(kind)}-*/{library_name(kind)}"))


def build_in_cache(kind: str) -> Path:
    """Compile the library of ``kind`` into the cache, unless it is there, and return its path.

    The place is keyed by the sources, the command and the compiler's version.

    Raises:
        BuildError: There is no compiler or no sources, or the compiler failed.
    """
    command = compile_command(kind, Path("library"))
    compiler = command[0] if kind == "cuda" else command[: command.index(_CPU_FLAGS[0])][0]
    key = hashlib.sha256("\0".join([*command, _run([compiler, "--version"]), platform.machine()]).encode())
    output = cache_folder() / f"{source_hash(kind)}-{key.hexdigest()[:16]}" / library_name(kind)
    if not output.is_file():
        build_library(kind, output)
    return output

"""Compiling the CUDA kernels with the NVRTC library that comes with torch.

Most people with a GPU have no nvcc, but every CUDA build of torch brings NVRTC, which suits its CUDA and the driver.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch

from dicenas.files import atomic_write_bytes
from dicenas.ops.kernels.build import BuildError, cache_folder, source_folder, source_hash

__all__ = ["compile_cubin", "find_nvrtc"]


def find_nvrtc() -> ctypes.CDLL:
    """Load torch's NVRTC.

    Raises:
        BuildError: This torch has none.
    """
    if torch.version.cuda is None:
        raise BuildError("this torch is built without CUDA")
    name = f"libnvrtc.so.{torch.version.cuda.split('.')[0]}"
    site = Path(torch.__file__).resolve().parent.parent
    for candidate in (name, *map(str, sorted(site.glob(f"nvidia/*/lib/{name}")))):
        try:
            return ctypes.CDLL(candidate)
        except OSError:
            continue
    raise BuildError(f"{name} was not found, neither loaded nor beside torch")


def _log(library: ctypes.CDLL, program: ctypes.c_void_p) -> str:
    size = ctypes.c_size_t()
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, text)
    return text.value.decode(errors="replace")


def _compile(library: ctypes.CDLL, architecture: str) -> bytes:
    folder = source_folder()
    if folder is None:
        raise BuildError("the kernels' sources are not installed")
    header = "dicenas_cuda_kernels.cuh"
    program = ctypes.c_void_p()
    status = library.nvrtcCreateProgram(
        ctypes.byref(program),
        (folder / "dicenas_cuda.cu").read_bytes(),
        b"dicenas_cuda.cu",
        1,
        (ctypes.c_char_p * 1)((folder / header).read_bytes()),
        (ctypes.c_char_p * 1)(header.encode()),
    )
    if status:
        raise BuildError(f"nvrtcCreateProgram failed with code {status}")
    try:
        options = [f"--gpu-architecture={architecture}".encode(), b"--std=c++17"]
        if library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options)):
            raise BuildError(f"NVRTC does not compile the kernels for {architecture}:\n{_log(library, program)}")
        size = ctypes.c_size_t()
        library.nvrtcGetCUBINSize(program, ctypes.byref(size))
        cubin = ctypes.create_string_buffer(size.value)
        if library.nvrtcGetCUBIN(program, cubin):
            raise BuildError(f"NVRTC gave no machine code for {architecture}")
        return cubin.raw
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def compile_cubin(capability: tuple[int, int]) -> bytes:
    """Return the kernels' machine code for a compute capability, from the cache or compiled, which takes seconds.

    Raises:
        BuildError: There is no NVRTC, or it does not compile the kernels.
    """
    library = find_nvrtc()
    major, minor = ctypes.c_int(), ctypes.c_int()
    library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    architecture = f"sm_{capability[0]}{capability[1]}"
    name = f"{source_hash('cuda')}-{architecture}-nvrtc{major.value}.{minor.value}.cubin"
    cached = cache_folder() / name
    if cached.is_file():
        return cached.read_bytes()
    cubin = _compile(library, architecture)
    cached.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_bytes(cached, cubin)
    return cubin

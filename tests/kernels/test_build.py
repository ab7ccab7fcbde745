"""Building the libraries: what is installed where a compiler works, and that nothing fails where none does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from dicenas.cli import main
from dicenas.ops.kernels import build, load_library

ROOT = Path(__file__).resolve().parents[2]

# Stands for a compiler: writes the file that -o names.
WORKING = """#!/bin/sh
while [ "$1" != -o ]; do
  [ "$1" = --version ] && exit
  [ "$1" = --list-gpu-code ] && echo sm_80 sm_90 && exit
  shift
done
echo code > "$2"
"""
BROKEN = "#!/bin/sh\necho no such header >&2\nexit 1\n"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    copy = tmp_path / "checkout"
    ignore = shutil.ignore_patterns("__pycache__", "*.so", "*.fatbin")
    for name in ("dicenas", "csrc"):
        shutil.copytree(ROOT / name, copy / name, ignore=ignore)
    for name in ("setup.py", "pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    return copy


def package(checkout: Path, compiler: str, mode: str, kind: str = "wheel") -> subprocess.CompletedProcess[str]:
    script = checkout.parent / "compiler"
    script.write_text(compiler, encoding="utf-8")
    script.chmod(0o755)
    environment = {**os.environ, "CXX": str(script), "DICENAS_BUILD": mode}
    source = f"from setuptools import build_meta; build_meta.build_{kind}({str(checkout.parent)!r})"
    return subprocess.run(
        [sys.executable, "-c", source], cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )


def names(folder: Path) -> list[str]:
    (wheel,) = folder.glob("*.whl")
    assert wheel.name.endswith(".whl")
    assert "-py3-none-" in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_wheel_holds_the_library(checkout: Path) -> None:
    done = package(checkout, WORKING, "cpu")
    assert done.returncode == 0, done.stderr
    assert "dicenas/ops/kernels/libdicenas_cpu.so" in names(checkout.parent)


def test_editable_installation_puts_the_library_into_the_checkout(checkout: Path) -> None:
    done = package(checkout, WORKING, "cpu", "editable")
    assert done.returncode == 0, done.stderr
    assert (checkout / "dicenas/ops/kernels/libdicenas_cpu.so").read_text() == "code\n"


def test_installation_without_a_working_compiler(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DICENAS_CUDA_ARCHS", "1")  # nvcc, where there is one, is no help either
    done = package(checkout, BROKEN, "auto")
    assert done.returncode == 0, done.stderr
    assert not any(name.endswith((".so", ".fatbin")) for name in names(checkout.parent))


def test_installation_that_demands_the_library(checkout: Path) -> None:
    done = package(checkout, BROKEN, "cpu")
    assert done.returncode != 0
    assert "no such header" in done.stderr
    assert "DICENAS_BUILD" in package(checkout, WORKING, "gpu").stderr


@pytest.mark.slow
def test_wheel_runs_on_a_machine_without_compilers(checkout: Path, nvcc: str, tmp_path: Path) -> None:
    """`make wheel`, unpacked elsewhere: both libraries come from it."""
    environment = {**os.environ, "DICENAS_BUILD": "cuda", "DICENAS_CUDA_ARCHS": "90"}
    source = f"from setuptools import build_meta; build_meta.build_wheel({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", source], cwd=checkout, env=environment, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*-py3-none-*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    program = (
        "import torch\nfrom dicenas.ops import DimConv, kernels\n"
        "from dicenas.ops.kernels.library import find_cuda_code\n"
        "assert DimConv(8, (7, 7))(torch.randn(1, 8, 7, 7)).shape == (1, 24, 7, 7)\n"
        "print(kernels.load_library('cpu').path, find_cuda_code(), sep='\\n')"
    )
    nothing = {"PATH": "", "HOME": str(tmp_path), "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=nothing, check=True, capture_output=True, text=True
    )
    folder = site / "dicenas" / "ops" / "kernels"
    assert done.stdout.split("\n")[:2] == [str(folder / build.library_name(kind)) for kind in build.KINDS]


@pytest.fixture
def compilers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A compiler that writes what it is given, as g++ and as nvcc, and a cache of its own."""
    folder = tmp_path / "toolkit" / "bin"
    folder.mkdir(parents=True)
    for name in ("compiler", "nvcc"):
        (folder / name).write_text(WORKING, encoding="utf-8")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("CXX", str(folder / "compiler"))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "toolkit"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return folder


def test_cache_is_kept(compilers: Path, tmp_path: Path) -> None:
    path = build.build_in_cache("cpu")
    assert build.cached_libraries("cpu") == [path]
    path.write_text("kept", encoding="utf-8")
    assert build.build_in_cache("cpu").read_text(encoding="utf-8") == "kept"
    (compilers / "compiler").write_text(BROKEN, encoding="utf-8")
    with pytest.raises(build.BuildError, match="no such header"):
        build.build_library("cpu", tmp_path / "library.so")
    assert not list(tmp_path.glob("*library.so*"))


def test_cache_is_keyed_by_sources_compiler_and_architecture(
    compilers: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    built = {build.build_in_cache("cpu"), build.build_in_cache("cuda")}
    monkeypatch.setenv("DICENAS_CUDA_ARCHS", "90")
    built.add(build.build_in_cache("cuda"))
    for name in ("compiler", "nvcc"):
        (compilers / name).write_text(WORKING.replace("--version ] && exit", "--version ] && echo 2 && exit"))
    built |= {build.build_in_cache("cpu"), build.build_in_cache("cuda")}
    assert len(built) == 5
    assert len(build.cached_libraries("cuda")) == 3
    sources = tmp_path / "csrc"
    shutil.copytree(ROOT / "csrc", sources)
    for path in (*sources.glob("*.cuh"), *sources.glob("*.h")):
        path.write_text(path.read_text(encoding="utf-8") + "// changed\n", encoding="utf-8")
    monkeypatch.setattr(build, "source_folder", lambda: sources)
    assert build.cached_libraries("cuda") == []
    assert {build.build_in_cache("cpu"), build.build_in_cache("cuda")}.isdisjoint(built)


def test_an_unknown_library_is_refused() -> None:
    with pytest.raises(ValueError, match="metal"):
        build.build_library("metal", Path("library"))


def test_command_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert main(["kernels"]) == 0
    assert str(load_library("cpu").path) in capsys.readouterr().out.replace("\n", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiler = tmp_path / "compiler"
    compiler.write_text(BROKEN, encoding="utf-8")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    assert main(["kernels", "build", "cpu"]) == 2
    assert "no such header" in capsys.readouterr().out

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
WORKING = '#!/bin/sh\nwhile [ "$1" != -o ]; do [ "$1" = --version ] && exit; shift; done\necho code > "$2"\n'
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


def test_cache_is_keyed_and_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text(WORKING, encoding="utf-8")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = build.build_in_cache("cpu")
    assert build.cached_libraries("cpu") == [path]
    path.write_text("kept", encoding="utf-8")
    assert build.build_in_cache("cpu").read_text(encoding="utf-8") == "kept"
    compiler.write_text(BROKEN, encoding="utf-8")
    with pytest.raises(build.BuildError, match="no such header"):
        build.build_library("cpu", tmp_path / "library.so")
    assert not list(tmp_path.glob("*library.so*"))


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

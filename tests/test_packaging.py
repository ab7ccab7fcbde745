"""What is installed, and that the mapped folders are found however the package is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import dicenas

ROOT = Path(__file__).resolve().parent.parent
SOURCES = (
    "dicenas",
    "search_spaces",
    "strategies",
    "configs",
    "csrc",
    "setup.py",
    "pyproject.toml",
    "LICENSE",
    "README.md",
)
MAPPED = ("dicenas.search_spaces", "dicenas.strategies")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources: a build leaves files beside them, which a later build would pack."""
    copy = tmp_path_factory.mktemp("checkout")
    ignore = shutil.ignore_patterns("__pycache__", "*.so")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=ignore)
        else:
            shutil.copy(ROOT / name, copy)
    return copy


def build(checkout: Path, kind: str, out: Path) -> Path:
    """Build a wheel as pip does, with the setuptools at hand and no network; return it unpacked."""
    source = f"from setuptools import build_meta; build_meta.build_{kind}({str(out)!r})"
    environment = {**os.environ, "DICENAS_BUILD": "none"}  # tests/kernels has the build of the libraries
    done = subprocess.run(
        [sys.executable, "-c", source], cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(out / "site")
    return out / "site"


@pytest.fixture(scope="module")
def installed(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(checkout, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def editable(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(checkout, "editable", tmp_path_factory.mktemp("editable"))


def found_at(names: tuple[str, ...], *, site: Path | None, cwd: Path) -> list[Path]:
    """Where a Python that has only ``site`` installed, started in ``cwd``, finds the packages."""
    install = f"import site; site.addsitedir({str(site)!r})\n" if site else ""
    find = f"import importlib.util\nfor name in {names!r}: print(importlib.util.find_spec(name).origin)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", install + find], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [Path(line).resolve() for line in done.stdout.split("\n") if line]


def test_wheel_holds_the_package(installed: Path) -> None:
    for name in ("__init__.py", "py.typed", "search_spaces/__init__.py", "strategies/__init__.py"):
        assert (installed / "dicenas" / name).is_file(), name
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "dicenas").rglob("*.py")}
    assert sources <= {path.relative_to(installed).as_posix() for path in installed.rglob("*.py")}


def test_wheel_holds_the_native_sources(installed: Path) -> None:
    suffixes = {".c", ".cc", ".cpp", ".cu", ".cuh", ".h", ".hpp"}
    sources = [path.relative_to(ROOT) for path in (ROOT / "csrc").rglob("*") if path.suffix in suffixes]
    assert sources
    assert [path for path in sources if not (installed / "dicenas" / path).is_file()] == []


def test_wheel_holds_the_configurations(installed: Path) -> None:
    configurations = [path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.yaml")]
    assert len(configurations) > 1
    assert [path for path in configurations if not (installed / "dicenas" / path).is_file()] == []


@pytest.mark.parametrize("mode", ["installed", "editable"])
def test_rows_of_the_paper_are_found_from_elsewhere(
    mode: str, checkout: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    site = request.getfixturevalue(mode)
    # First on the path, so that no other editable installation's finder takes the place of this one's.
    install = f"import site, sys; sys.path.insert(0, {str(site)!r}); site.addsitedir({str(site)!r})"
    source = f"{install}\nfrom dicenas.paper import config_folder\nprint(config_folder())"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if "site-packages" in path)}
    done = subprocess.run(
        [sys.executable, "-S", "-c", source], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    inside = site / "dicenas" if mode == "installed" else checkout
    assert Path(done.stdout.strip()) == (inside / "configs" / "paper").resolve()


def test_wheel_adds_one_name_to_site_packages(installed: Path) -> None:
    names = {path.name for path in installed.iterdir()}
    assert names == {"dicenas", f"dicenas-{dicenas.__version__}.dist-info"}


def test_plain_install_is_found_from_elsewhere(installed: Path, tmp_path: Path) -> None:
    found = found_at(MAPPED, site=installed, cwd=tmp_path)
    assert found == [
        installed / "dicenas/search_spaces/__init__.py",
        installed / "dicenas/strategies/__init__.py",
    ]


@pytest.mark.parametrize("mode", ["installed", "editable", None])
def test_checkout_is_found_from_its_root(mode: str | None, checkout: Path, request: pytest.FixtureRequest) -> None:
    """The checkout's ``dicenas`` hides an installed one, so the mapped folders must be the checkout's too."""
    site = request.getfixturevalue(mode) if mode else None
    found = found_at(("dicenas", *MAPPED), site=site, cwd=checkout)
    assert found == [checkout / name / "__init__.py" for name in ("dicenas", "search_spaces", "strategies")]


def test_editable_install_is_found_from_elsewhere(editable: Path, checkout: Path, tmp_path: Path) -> None:
    found = found_at(("dicenas", *MAPPED), site=editable, cwd=tmp_path)
    assert found == [checkout / name / "__init__.py" for name in ("dicenas", "search_spaces", "strategies")]


def test_bare_import_registers_nothing_twice() -> None:
    source = (
        "from dicenas.ops import list_ops\nimport dicenas.search_spaces, dicenas.strategies\n"
        "before = list_ops()\nimport search_spaces, strategies\nassert list_ops() == before\n"
    )
    done = subprocess.run([sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

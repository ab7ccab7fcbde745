"""Ops that installed packages bring by entry points."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dicenas.ops import build_op, get_op, list_ops
from dicenas.ops.installed import load_installed_ops

OP = '''
from torch import nn

from dicenas.ops import register_op


@register_op({name!r}, kernel_sizes=(3, 5), group="acme")
def op(in_channels, out_channels, *, stride, size, kernel_size, activation, final_activation):
    """Plain convolution of another package."""
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2)
'''


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed packages."""
    monkeypatch.syspath_prepend(tmp_path)
    loaded = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - loaded:
        if name.partition(".")[0].startswith("acme"):
            del sys.modules[name]


def install(site: Path, package: str, source: str, entry: str | None = None) -> None:
    """Install a package as pip leaves it: a module, and what is told of it in a .dist-info."""
    (site / f"{package}.py").write_text(source, encoding="utf-8")
    info = site / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[dicenas.ops]\n{package}_entry = {entry or package}\n", encoding="utf-8")


@pytest.mark.usefixtures("scratch_registry")
def test_an_installed_package_brings_its_op(site: Path) -> None:
    install(site, "acme_ops", OP.format(name="acme"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_installed_ops()
        load_installed_ops()  # imported once
    assert get_op("acme").candidates == ("acme_k3", "acme_k5")
    op = build_op("acme", 4, 6, stride=2, size=(3, 3), kernel_size=5)
    assert op(torch.randn(1, 4, 6, 6)).shape == (1, 6, 3, 3)


@pytest.mark.usefixtures("scratch_registry")
@pytest.mark.parametrize(
    ("source", "entry", "complaint"),
    [
        (OP.format(name="half") + "\nraise OSError('no licence')", None, "OSError: no licence"),
        ("import no_such_library", None, "ModuleNotFoundError: No module named 'no_such_library'"),
        (OP.format(name="dice"), None, "ValueError: op 'dice' is already registered"),
        ("", "acme_nowhere.ops", "ModuleNotFoundError: No module named 'acme_nowhere'"),
        ("def broken(:", None, "SyntaxError"),
    ],
)
def test_a_broken_package_is_named_and_harms_nobody(site: Path, source: str, entry: str | None, complaint: str) -> None:
    install(site, "acme_broken", source, entry)
    install(site, "acme_sound", OP.format(name="sound"))
    before = list_ops()
    with pytest.warns(RuntimeWarning, match="'acme_broken_entry' of acme_broken in the group 'dicenas.ops'") as caught:
        load_installed_ops()
    assert len(caught) == 1
    assert complaint in str(caught[0].message)
    assert list_ops() == sorted([*before, "sound"])


def test_it_is_there_in_a_fresh_process_whatever_is_imported_first(tmp_path: Path) -> None:
    install(tmp_path, "acme_ops", OP.format(name="acme"))
    install(tmp_path, "acme_broken", "raise OSError('no licence')")
    for first in ("import dicenas.cli.ops", "import acme_ops"):
        source = f"{first}\nfrom dicenas.cli import main\nmain(['ops', '--only', 'acme'])"
        done = subprocess.run(
            [sys.executable, "-c", source],
            env={"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "acme" in done.stdout
        assert "Plain convolution of another package" in done.stdout
        assert done.stderr.count("RuntimeWarning") == done.stderr.count("acme_broken_entry") == 1

"""The README's commands and examples run as they stand, in their order, in one folder."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkout of sorts, whose quickstart takes seconds: fewer trials and images, one epoch, the smallest width."""
    config = yaml.safe_load((ROOT / "configs" / "quickstart.yaml").read_text(encoding="utf-8"))
    config["search"]["trials"] = 2
    config["space"]["widths"] = [0.5]
    config["data"] |= {"train_limit": 100, "val_limit": 50}
    config["evaluator"]["epochs"] = 1
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "quickstart.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return tmp_path


def run(command: list[str], folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, f"{shlex.join(command)}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def test_blocks_in_their_order(folder: Path) -> None:
    printed = []
    for kind, block in BLOCKS:
        if kind == "python":
            printed.append(run([sys.executable, "-c", block], folder))
            continue
        assert kind == "console", f"the README has a block of kind {kind!r} that no test runs"
        for line in block.splitlines():
            program, *arguments = shlex.split(line.removeprefix("$ "), comments=True)
            if program == "make":
                run(["make", "--dry-run", "--directory", str(ROOT), *arguments], folder)
            else:
                assert program == "dicenas"
                run([sys.executable, "-m", "dicenas", *arguments], folder)
    assert (folder / "runs" / "quickstart" / "report.html").is_file()
    assert (folder / "my_network" / "model.py").is_file()
    text = "".join(printed)
    for shape in ("torch.Size([1, 10])", "torch.Size([2, 10])", "torch.Size([2, 128, 28, 28])"):
        assert shape in text


def test_every_command_of_the_table_exists(folder: Path) -> None:
    table = re.findall(r"^\| `dicenas (\w+)", README, flags=re.MULTILINE)
    listed = run([sys.executable, "-m", "dicenas", "--help"], folder)
    assert table
    for command in table:
        assert re.search(rf"^    {command} ", listed, flags=re.MULTILINE), command


def test_inline_commands_run(folder: Path) -> None:
    run([sys.executable, "-m", "dicenas", "ops", "--cost", "32", "64", "28"], folder)
    run([sys.executable, "-m", "dicenas", "export", "dicenet_020", "--out", "dicenet"], folder)
    assert (folder / "dicenet" / "model.py").is_file()


def test_linked_files_exist() -> None:
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link

"""The examples run and say what they should; those that need torch alone run with everything else blocked."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import dicenas
import dicenas.ops.registry
from dicenas.cli import main
from dicenas.export import model_source
from dicenas.ops.installed import GROUP

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs" / "integrations.md").read_text(encoding="utf-8")

#: What each prints, as a pattern.
PRINTS = {
    "convert_mobilenet": r"replaced 4 separable convolutions by dice, left 13(.|\n)*after: [\d.]+ ms",
    "custom_op": r"ghost: 1,831,424 FLOPs(.|\n)*searched(.|\n)*by ghost, left 9\nexported and verified.*GhostNet",
    "darts_cell": r"edge of stride 2: .*dice_k3 0\.\d\d",
    "define_by_run": r"of 4 trials are on the Pareto front:\n  accuracy 0\.[1-9]",
    "layer_choice": r"'keep': '\w+'}: accuracy(.|\n)*best: {'down'",
    "naslib_primitives": r"dice_k3 +\(2, 16, 32, 32\) -> \(2, 32, 16, 16\), 960 parameters",
    "take_the_op": r"accuracy on new images: (0\.9|1)",
    "timm_features": r"1/32 of the image: \(1, 128, 7, 7\)(.|\n)*one training step taken",
}

#: Hides what is neither Python's, nor torch's, nor a requirement of torch.
ALONE = """
import sys
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder

OWN = {"torch", "torchgen", "functorch", "typing_extensions", "sympy", "mpmath", "networkx", "jinja2", "markupsafe"}
OWN |= {"filelock", "fsspec", "triton", "nvidia", "cuda", "setuptools", "_distutils_hack", "pkg_resources"}
OWN |= sys.stdlib_module_names

class Own(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        top = name.partition(".")[0]
        own = top in OWN | ALSO or top.startswith("_sysconfigdata")
        return super().find_spec(name, path, target) if own else None

sys.meta_path[:] = [BuiltinImporter, FrozenImporter, Own]
"""


def test_each_example_is_tested() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == PRINTS.keys()


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the registry of ops: what a test registers goes with it."""
    monkeypatch.setattr(dicenas.ops.registry, "_REGISTRY", dict(dicenas.ops.registry._REGISTRY))


@pytest.mark.usefixtures("own_registry")
@pytest.mark.parametrize("name", sorted(PRINTS.keys() - {"take_the_op"}))
def test_example(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert re.search(PRINTS[name], printed), printed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("own_registry")
def test_the_guide(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for kind, block in re.findall(r"^```(\w+)\n(.*?)^```$", GUIDE, re.M | re.S):
        if kind == "python":
            exec(compile(block, "docs/integrations.md", "exec"), names)  # noqa: S102
        elif kind == "console":
            program, *arguments = shlex.split(block.removeprefix("$ "))
            assert program == "dicenas"
            assert main(arguments) == 0
        else:
            assert list(tomllib.loads(block)["project"]["entry-points"]) == [GROUP]
    printed = capsys.readouterr().out
    for text in ("[32, 64, 128]", "my_network", "by dice, left 0", "'dice_k3', 'dice_k5'", "by pooled_k5, left 16"):
        assert text in printed
    for link in re.findall(r"\]\((?!https?:)([^)#,]+)\)", GUIDE):
        assert (ROOT / "docs" / link).exists(), link


def run_alone(source: str, folder: Path, *also: str) -> str:
    """Run code in a process that can import torch and its requirements, Python's own modules, and ``also``."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    text = f"ALSO = {set(also)!r}\n{ALONE}\n{source}"
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def readme_block(line: str) -> str:
    """The Python block of the README that has this line."""
    (block,) = (block for block in re.findall(r"^```python\n(.*?)^```$", README, re.M | re.S) if line in block)
    return block


def test_taking_the_op_needs_torch_alone(tmp_path: Path) -> None:
    source = f"import runpy\nrunpy.run_path({str(EXAMPLES / 'take_the_op.py')!r}, run_name='__main__')\n"
    # One process for both: most of its time goes into importing torch.
    printed = run_alone(source + readme_block("from dicenas.ops import DiCE, build_op"), tmp_path, "dicenas")
    assert re.search(PRINTS["take_the_op"], printed), printed
    assert "loaded besides torch: nothing" in printed
    assert "torch.Size([2, 128, 28, 28])" in printed


def test_taking_the_network_needs_torch_alone(tmp_path: Path) -> None:
    folder = tmp_path / "my_network"
    folder.mkdir()
    network = dicenas.dicenet(0.1, num_classes=10, image_size=32)
    (folder / "model.py").write_text(model_source(network, weights_name="model.safetensors"), encoding="utf-8")
    save_file(network.state_dict(), folder / "model.safetensors")
    printed = run_alone(readme_block("from model import build"), tmp_path, "model")
    assert str(torch.Size([1, 10])) in printed


def test_other_packages_are_hidden(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="No module named 'timm'"):
        run_alone("import timm", tmp_path)

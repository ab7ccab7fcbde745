"""README's examples of taking a network and an op away, where nothing but torch can be imported."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from dicenas.export import export_network
from dicenas.nets import build, dicenet_architecture

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)

# torch with what it brings and what it requires itself.
OF_TORCH = {
    *("torch", "torchgen", "functorch"),
    *("cuda", "filelock", "fsspec", "jinja2", "markupsafe", "mpmath", "networkx", "nvidia", "sympy", "triton"),
    *("setuptools", "typing_extensions"),
}
ALONE = """
import sys

class Filter:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        standard = top in sys.stdlib_module_names or top.startswith("_sysconfigdata")
        if top not in {allowed!r} and not standard:
            return None
        return self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(Filter, sys.meta_path)
for absent in ("numpy", "safetensors", "nni", {absent!r}):
    try:
        __import__(absent)
    except ModuleNotFoundError:
        continue
    raise AssertionError(absent + " is there")
"""


def example(holds: str) -> str:
    (found,) = (block for block in EXAMPLES if holds in block)
    return found


def run_alone(program: str, cwd: Path, allowed: str, absent: str) -> str:
    text = ALONE.format(allowed=sorted({*OF_TORCH, allowed}), absent=absent) + program
    done = subprocess.run([sys.executable, "-B", "-c", text], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_network_needs_torch_alone(tmp_path: Path) -> None:
    network = build(dicenet_architecture(0.1, num_classes=10, image_size=32))
    export_network(network, tmp_path / "my_network")
    printed = run_alone(example("from model import build"), tmp_path, "model", "dicenas")
    assert printed == "torch.Size([1, 10])\n"


def test_the_op_needs_torch_alone(tmp_path: Path) -> None:
    program = f"sys.path.append({str(ROOT)!r})\n" + example("from dicenas.ops import DiCE")
    printed = run_alone(program, tmp_path, "dicenas", "timm")
    assert "torch.Size([2, 10])" in printed
    assert "torch.Size([2, 128, 28, 28])" in printed

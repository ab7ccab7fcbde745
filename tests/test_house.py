"""The floors of the house (docs/design.md): what each module may import, and what importing it costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import dicenas

ROOT = Path(__file__).resolve().parent.parent

# Prefix of the module's name -> floor. A module may import from its own floor and from those below.
FLOORS = {
    "dicenas": 0,
    "dicenas.events": 0,
    "dicenas.files": 0,
    "dicenas.locks": 0,
    "dicenas.pareto": 0,
    "dicenas.spelling": 0,
    "dicenas.ops": 1,
    "dicenas.architecture": 2,
    "dicenas.space": 2,
    "dicenas.nets": 2,
    "dicenas.runs": 2,
    "dicenas.cost": 3,
    "dicenas.convert": 4,
    "dicenas.evaluation": 4,
    "dicenas.export": 4,
    "dicenas.integrations": 4,
    "dicenas.paper": 4,
    "dicenas.training": 4,
    "dicenas.search_spaces": 5,
    "dicenas.strategies": 5,
    "dicenas.config": 6,
    "dicenas.final": 6,
    "dicenas.report": 6,
    "dicenas.run_latency": 6,
    "dicenas.run_session": 6,
    "dicenas.search": 6,
    "dicenas.workers": 6,
    "dicenas.__main__": 7,
    "dicenas.cli": 7,
}
NEEDS_TORCH_ALONE = 3  # up to this floor
KNOWS_NO_SEARCH_LIBRARY = 4  # up to this floor
SEARCH_LIBRARIES = {"nni", "optuna"}
TOP_LEVEL_FOLDERS = {"search_spaces", "strategies"}


def module_names() -> dict[str, Path]:
    """Every module of the package, by the name that it has when installed."""
    names = {}
    for folder, prefix in ((ROOT / "dicenas", ""), *((ROOT / top, "dicenas.") for top in TOP_LEVEL_FOLDERS)):
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder.parent).with_suffix("").parts
            names[prefix + ".".join(part for part in parts if part != "__init__")] = path
    return names


MODULES = module_names()


def floor_of(name: str) -> int | None:
    """The floor of a module, None where the house has no place for it."""
    if name == "dicenas":
        return FLOORS[name]
    return FLOORS.get(".".join(name.split(".")[:2]))


@dataclass(frozen=True)
class Import:
    target: str
    line: int
    lazy: bool  # within a function
    typing: bool  # under `if TYPE_CHECKING:`


def imports(name: str, source: str, is_package: bool) -> Iterator[Import]:
    """All imports of a module: relative ones resolved, names of ``dicenas`` traced to their module."""

    def targets(node: ast.AST) -> list[str]:
        if isinstance(node, ast.Import):
            return [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = name.split(".")
                parts = parts[: len(parts) - node.level + is_package]
                base = ".".join([*parts, *([node.module] if node.module else [])])
            if base == "dicenas":
                return [dicenas._EXPORTS.get(alias.name, f"dicenas.{alias.name}") for alias in node.names]
            return [base]
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = node.func
            called = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
            if called in {"import_module", "__import__"}:
                return [str(node.args[0].value)]
        return []

    def walk(node: ast.AST, lazy: bool, typing: bool) -> Iterator[Import]:
        for target in targets(node):
            yield Import(target, node.lineno, lazy, typing)
        lazy = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            for child in node.body:
                yield from walk(child, lazy, True)
            for child in node.orelse:
                yield from walk(child, lazy, typing)
            return
        for child in ast.iter_child_nodes(node):
            yield from walk(child, lazy, typing)

    yield from walk(ast.parse(source), lazy=False, typing=False)


def violations(name: str, source: str, is_package: bool = False) -> list[str]:
    """What in a module breaks the rules of the house, one line each."""
    floor = floor_of(name)
    if floor is None:
        return [f"{name}: has no floor; give it one in DESIGN's table and in {Path(__file__).name}"]
    found = []
    for item in imports(name, source, is_package):
        top = item.target.split(".")[0]
        where = f"{name}:{item.line} (floor {floor}) imports {item.target}"
        if top == "dicenas":
            # Naming a type of the house costs nothing at run time, and a package's exports are lazy.
            below = floor_of(item.target)
            if not item.typing and item.target != "dicenas.__version__" and (below is None or below > floor):
                found.append(f"{where}, which stands on floor {below}")
        elif top in TOP_LEVEL_FOLDERS:
            found.append(f"{where}: a second copy of dicenas.{top}")
        elif top in SEARCH_LIBRARIES and floor <= KNOWS_NO_SEARCH_LIBRARY:
            found.append(f"{where}, which starts at floor {KNOWS_NO_SEARCH_LIBRARY + 1}")
        elif (
            floor <= NEEDS_TORCH_ALONE
            and not (item.lazy or item.typing)
            and top != "torch"
            and top not in sys.stdlib_module_names
        ):
            found.append(f"{where} at module level: floors 0 to {NEEDS_TORCH_ALONE} need torch alone")
    return found


@pytest.mark.parametrize("name", sorted(MODULES))
def test_module_keeps_to_its_floor(name: str) -> None:
    path = MODULES[name]
    assert violations(name, path.read_text(encoding="utf-8"), path.name == "__init__.py") == []


@pytest.mark.parametrize(
    ("name", "source", "complaint"),
    [
        ("dicenas.ops.planted", "import nni", "starts at floor 5"),
        ("dicenas.export.planted", "def f():\n    from optuna.trial import Trial", "starts at floor 5"),
        ("dicenas.evaluation.planted", "importlib.import_module('nni.nas')", "starts at floor 5"),
        ("dicenas.ops.planted", "import numpy as np", "need torch alone"),
        ("dicenas.cost.planted", "try:\n    import thop\nexcept ImportError:\n    pass", "need torch alone"),
        ("dicenas.nets.planted", "from dicenas.cost import count_macs", "stands on floor 3"),
        ("dicenas.nets.planted", "from ..cost import count_macs", "stands on floor 3"),
        ("dicenas.nets.planted", "from .. import cost", "stands on floor 3"),
        ("dicenas.files", "from dicenas import Architecture", "stands on floor 2"),
        ("dicenas.cli.planted", "from strategies import OptunaStrategy", "second copy"),
        ("dicenas.attic", "", "has no floor"),
    ],
)
def test_the_check_sees(name: str, source: str, complaint: str) -> None:
    (found,) = violations(name, source)
    assert complaint in found


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("dicenas.cost.planted", "def f():\n    import thop"),
        (
            "dicenas.ops.planted",
            "from __future__ import annotations\nimport math\nimport torch.nn.functional as F",
        ),
        ("dicenas.ops.planted", "if TYPE_CHECKING:\n    import numpy"),
        ("dicenas.strategies.planted", "import nni\nfrom dicenas.space import SpaceSpec"),
        ("dicenas.nets.planted", "from ..ops import DiCE\nfrom . import other"),
    ],
)
def test_the_check_lets_pass(name: str, source: str) -> None:
    assert violations(name, source) == []


def run_python(source: str, cwd: Path = ROOT) -> str:
    done = subprocess.run([sys.executable, "-c", source], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_loads_no_library() -> None:
    loaded = run_python(
        "import sys; before = set(sys.modules); import dicenas; print(*set(sys.modules) - before, sep='\\n')"
    )
    tops = {name.split(".")[0] for name in loaded.split()}
    assert tops - {"dicenas"} <= sys.stdlib_module_names


BLOCKER = """
import importlib.abc, sys

class Blocker(importlib.abc.MetaPathFinder):
    blocked = {blocked!r}
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.blocked:
            raise ModuleNotFoundError(f"No module named {{name!r}} (blocked)", name=name)

sys.meta_path.insert(0, Blocker())
"""
# All that the package's extras and requirements bring, save torch and what torch itself requires.
BESIDE_TORCH = {
    *("PIL", "matplotlib", "nni", "numpy", "onnx", "onnxruntime", "onnxscript", "optuna", "pandas", "plotly"),
    *("pyarrow", "pytorch_lightning", "rich", "safetensors", "scipy", "sklearn", "thop", "timm", "torchvision", "tqdm"),
    "yaml",
}


def test_lower_floors_import_with_torch_alone() -> None:
    names = sorted(name for name in MODULES if (floor_of(name) or 0) <= NEEDS_TORCH_ALONE)
    run_python(
        BLOCKER.format(blocked=BESIDE_TORCH)
        + f"import importlib\nfor name in {names!r}:\n    importlib.import_module(name)"
    )


def test_the_op_runs_with_torch_alone() -> None:
    out = run_python(
        BLOCKER.format(blocked=BESIDE_TORCH)
        + "import torch\nfrom dicenas.ops import DiCE\n"
        + "x = torch.randn(2, 16, 8, 6, requires_grad=True)\n"
        + "y = DiCE(16, 24, size=(8, 6))(x)\ny.sum().backward()\nprint(tuple(y.shape), tuple(x.grad.shape))"
    )
    assert out.split("\n")[0] == "(2, 24, 8, 6) (2, 16, 8, 6)"


def test_top_level_names_are_their_modules_s() -> None:
    out = run_python(
        "import importlib, dicenas\n"
        "for name, module in dicenas._EXPORTS.items():\n"
        "    value = getattr(dicenas, name)\n"
        "    assert value is getattr(importlib.import_module(module), name), name\n"
        "    assert name in dir(dicenas), name\n"
        "print(len(dicenas._EXPORTS))"
    )
    assert int(out) == len(dicenas._EXPORTS)


@pytest.mark.parametrize(
    "first",
    ["dicenas.search", "import dicenas.search", "from dicenas.search import search", "from dicenas import search"],
)
def test_search_is_the_function_whatever_is_imported_first(first: str) -> None:
    """A module and a function share the name; importing the module must not hide the function."""
    out = run_python(
        f"import dicenas\n{first}\nimport dicenas.search, inspect, sys\n"
        "print(inspect.isfunction(dicenas.search), inspect.ismodule(sys.modules['dicenas.search']))"
    )
    assert out.split() == ["True", "True"]


@pytest.mark.parametrize(
    "first",
    ["from dicenas.nets.shufflenetv2 import CHANNELS", "import dicenas.nets.shufflenetv2", "import dicenas.nets.zoo"],
)
def test_shufflenetv2_is_the_function_and_its_module_is_there(first: str) -> None:
    """A module and a function share this name too."""
    out = run_python(
        f"{first}\nimport dicenas, inspect, sys\nfrom dicenas.nets import shufflenetv2\n"
        "from dicenas.nets.shufflenetv2 import CHANNELS, ShuffleUnit\n"
        "print(inspect.isfunction(dicenas.nets.shufflenetv2), dicenas.shufflenetv2 is shufflenetv2, "
        "inspect.ismodule(sys.modules['dicenas.nets.shufflenetv2']))"
    )
    assert out.split() == ["True"] * 3


def test_unknown_top_level_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = dicenas.no_such_name

"""Runs an exported network in a process of its own, as somebody would who has not got this package.

Started by path as ``python -I check_process.py FOLDER INPUTS OUTPUTS FORMATS ROUNDS [ROOT]``. It loads each of the
formats (separated by commas) from ``FOLDER``, while the libraries that the format must do without cannot be imported,
and writes to ``OUTPUTS`` the logits of ``INPUTS`` (a list of tensors for each runtime), the weights that ``model.py``
has, and times of the first input, for which the runtimes take turns, up to ``ROUNDS`` times. Given ``ROOT``, the folder
that holds the package, ``model.py`` is loaded once more with dicenas, whose kernels it then uses.
"""

from __future__ import annotations

import importlib.util
import random
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["BLOCKED", "RUNTIMES"]

#: What no exported network may need, and the libraries beside torch that are there for their own format alone.
BLOCKED = frozenset({"dicenas", "nni", "optuna", "thop"})
_LIBRARIES = frozenset({"onnx", "onnxruntime", "onnxscript", "safetensors", "timm", "torchvision"})

#: Runtime of each format: what it is called, and what it may import beside torch.
RUNTIMES: dict[str, tuple[str, frozenset[str]]] = {
    "py": ("torch", frozenset()),
    "pt2": ("torch.export", frozenset()),
    "torchscript": ("torchscript", frozenset()),
    "onnx": ("onnxruntime", frozenset({"onnxruntime"})),
    "timm": ("timm", frozenset({"timm", "torchvision", "safetensors"})),
}
#: How many rounds of timing there are at least, where so many are asked for, however long they take.
_LEAST_ROUNDS, _TIME_LIMIT_S = 7, 2.0

_Run = Callable[[Tensor], Tensor]


class _Filter:
    """Stands before a finder of modules, and makes libraries as good as not installed, all but those of ``allowed``."""

    allowed: frozenset[str] = frozenset()

    def __init__(self, finder: Any) -> None:
        self._finder = finder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)

    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> Any:
        top = fullname.partition(".")[0]
        if top in BLOCKED | _LIBRARIES and top not in self.allowed:
            return None
        return self._finder.find_spec(fullname, path, target)


def _module(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # timm looks there for the module of a model
    spec.loader.exec_module(module)
    return module


def _load_py(folder: Path, name: str = "model") -> nn.Module:
    network: nn.Module = _module(name, folder / "model.py").build(folder / "model.safetensors")
    return network.eval()


def _load_pt2(folder: Path) -> _Run:
    return torch.export.load(folder / "model.pt2").module()


def _load_torchscript(folder: Path) -> _Run:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its deprecation
        run: _Run = torch.jit.load(folder / "model.ts")
    return run


def _load_onnx(folder: Path) -> _Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(["logits"], {"image": x.numpy()})[0])


def _load_timm(folder: Path) -> nn.Module:
    module = _module("timm_model", folder / "timm" / "timm_model.py")
    import timm

    network: Any = timm.create_model(f"local-dir:{folder / 'timm'}", pretrained=True).eval()
    assert type(network).__module__ == module.__name__
    return network


_LOADERS: dict[str, Callable[[Path], _Run]] = {
    "py": _load_py,
    "pt2": _load_pt2,
    "torchscript": _load_torchscript,
    "onnx": _load_onnx,
    "timm": _load_timm,
}


def _times_ms(runs: dict[str, _Run], x: Tensor, rounds: int) -> dict[str, list[float]]:
    """Time one run of each after the other, in an order that is drawn anew in every round."""
    order = random.Random(0)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run(x)
    start = time.perf_counter()
    for number in range(rounds):
        if number >= _LEAST_ROUNDS and time.perf_counter() - start > _TIME_LIMIT_S:
            break
        for name in order.sample(list(runs), len(runs)):
            before = time.perf_counter_ns()
            runs[name](x)
            times[name].append((time.perf_counter_ns() - before) / 1e6)
    return times


def _main(
    folder_path: str, inputs_path: str, outputs_path: str, formats: str, rounds: str, root: str | None = None
) -> None:
    torch.set_num_threads(1)
    folder = Path(folder_path)
    inputs: dict[str, list[Tensor]] = torch.load(inputs_path, weights_only=True)
    sys.meta_path[:] = map(_Filter, sys.meta_path)
    runs: dict[str, _Run] = {}
    logits: dict[str, list[Tensor]] = {}
    state_dict: dict[str, Tensor] = {}
    with torch.no_grad():
        for name in formats.split(","):
            runtime, _Filter.allowed = RUNTIMES[name]
            run = _LOADERS[name](folder)
            if name == "timm":  # builds a network of float32, whatever the weights
                assert isinstance(run, nn.Module)
                run.to(inputs[runtime][0].dtype)
            logits[runtime] = [run(x) for x in inputs[runtime]]
            if found := BLOCKED.intersection(sys.modules):
                raise RuntimeError(f"imported in spite of the block: {', '.join(sorted(found))}")
            if isinstance(run, nn.Module) and name == "py":
                state_dict = run.state_dict()
            runs[runtime] = run
        if root is not None:
            _Filter.allowed = BLOCKED | _LIBRARIES
            sys.path.append(root)
            runs["dicenas"] = _load_py(folder, "model_with_dicenas")
            logits["dicenas"] = [runs["dicenas"](x) for x in inputs["dicenas"]]
            if "dicenas.ops" not in sys.modules:
                raise RuntimeError(f"model.py does not use the kernels of dicenas, which is importable from {root}")
        times = _times_ms(runs, inputs["torch"][0], int(rounds))
    torch.save({"logits": logits, "state_dict": state_dict, "times_ms": times}, outputs_path)


if __name__ == "__main__":
    _main(*sys.argv[1:])

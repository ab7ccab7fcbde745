"""Runs an exported network in a process of its own, as somebody would who has torch and nothing else.

Started by path as ``python -I check_process.py MODEL WEIGHTS INPUTS OUTPUTS [ROOT]``. It loads ``MODEL`` (a
``model.py``) with ``WEIGHTS`` while the libraries below cannot be imported, and writes to ``OUTPUTS`` the logits
of ``INPUTS`` (a list of tensors) and the weights that the network has. Given ``ROOT``, the folder that holds the
package, it takes the logits once more with dicenas, whose kernels the network then uses.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor, nn

__all__ = ["BLOCKED"]

#: What an exported network must do without.
BLOCKED = frozenset({"dicenas", "nni", "optuna", "safetensors", "thop", "timm", "torchvision"})


class _Blocker(importlib.abc.MetaPathFinder):
    """Makes the blocked libraries as good as not installed."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if fullname.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {fullname!r} (blocked)", name=fullname)


def _load(name: str, model: str, weights: str) -> nn.Module:
    spec = importlib.util.spec_from_file_location(name, model)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network: nn.Module = module.build(weights)
    return network.eval()


def _logits(network: nn.Module, inputs: list[Tensor]) -> list[Tensor]:
    with torch.no_grad():
        return [network(x) for x in inputs]


def _main(model: str, weights: str, inputs_path: str, outputs_path: str, root: str | None = None) -> None:
    inputs = torch.load(inputs_path, weights_only=True)
    blocker = _Blocker()
    sys.meta_path.insert(0, blocker)
    network = _load("model", model, weights)
    logits = {"torch": _logits(network, inputs)}
    if found := BLOCKED.intersection(sys.modules):
        raise RuntimeError(f"imported in spite of the block: {', '.join(sorted(found))}")
    if root is not None:
        sys.meta_path.remove(blocker)
        sys.path.append(root)
        logits["dicenas"] = _logits(_load("model_with_dicenas", model, weights), inputs)
        if "dicenas.ops" not in sys.modules:
            raise RuntimeError(f"model.py does not use the kernels of dicenas, which is importable from {root}")
    torch.save({"logits": logits, "state_dict": network.state_dict()}, outputs_path)


if __name__ == "__main__":
    _main(*sys.argv[1:])

"""Writes a network as a program that needs no Python source: ONNX, torch.export, TorchScript."""

from __future__ import annotations

import importlib.util
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = ["OPSET", "program_of", "standalone", "write_onnx", "write_pt2", "write_torchscript"]

#: Version of ONNX's standard operators.
OPSET = 18


@contextmanager
def standalone(source: str, state_dict: Mapping[str, Tensor]) -> Iterator[nn.Module]:
    """Yield the network of a ``model.py`` with these weights, in evaluation mode.

    Programs are made from it rather than from the network that was trained, so that they say what ``model.py`` says:
    no kernels, no hooks.

    Args:
        source: Text of the module, without kernels.
        state_dict: Its weights.
    """
    with tempfile.TemporaryDirectory(prefix="dicenas-export-") as folder:
        path = Path(folder) / "model.py"
        path.write_text(source, encoding="utf-8")
        spec = importlib.util.spec_from_file_location("model", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        network: nn.Module = module.build()
        network.load_state_dict(state_dict)
        yield network.eval().requires_grad_(False)


def program_of(network: nn.Module, example: Tensor, any_size: bool) -> ExportedProgram:
    """Export a network for batches of any size.

    Args:
        network: The network, in evaluation mode.
        example: Images ``(N, C, H, W)``, two or more: of one image the exporter would take the batch for a constant.
        any_size: Whether it is exported for images of any size; those of the example otherwise.
    """
    from torch.export import Dim

    sizes: dict[int, Any] = {0: Dim("N", min=1)}
    if any_size:
        sizes |= {2: Dim.AUTO, 3: Dim.AUTO}
    with torch.no_grad():
        program = torch.export.export(network, (example,), dynamic_shapes=(sizes,))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # lines and paths of this machine
    return program


def write_pt2(program: ExportedProgram, path: Path) -> None:
    """Write a program for ``torch.export.load``."""
    torch.export.save(program, path)


def write_onnx(program: ExportedProgram, example: Tensor, any_size: bool, path: Path) -> None:
    """Write a program as an ONNX file of standard operators, input ``image`` and output ``logits``.

    Args:
        program: The program.
        example: Images that it takes.
        any_size: Whether it was exported for images of any size.
        path: The file.
    """
    import onnx

    names = {0: "N", 2: "H", 3: "W"} if any_size else {0: "N"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what the exporter itself uses
        exported = torch.onnx.export(
            program,
            (example,),
            input_names=["image"],
            output_names=["logits"],
            opset_version=OPSET,
            dynamic_shapes=(names,),
            dynamo=True,
            verbose=False,
        )
    assert exported is not None
    model = exported.model_proto
    # Notes of the exporter on where each node comes from are larger than the graph.
    for node in model.graph.node:
        del node.metadata_props[:]
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer):
        del value.metadata_props[:]
    onnx.checker.check_model(model, full_check=True)
    domains = {node.domain for node in model.graph.node} | {entry.domain for entry in model.opset_import}
    if domains != {""} or model.functions:
        raise ValueError(f"the ONNX file would have operators that are not standard: {sorted(domains - {''})}")
    onnx.save(model, path)


def write_torchscript(network: nn.Module, example: Tensor, path: Path) -> None:
    """Write a network for ``torch.jit.load``: traced, for batches of any size.

    torch has declared TorchScript deprecated; it is written as long as torch can write it.

    Args:
        network: The network, in evaluation mode.
        example: Images ``(N, C, H, W)``; a network with DiCE units takes images of their size alone.
        path: The file.
    """
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the deprecation, which the model card tells, and the tracer's of sizes
        traced = torch.jit.trace(network, example, check_trace=False)
        torch.jit.save(traced, path)

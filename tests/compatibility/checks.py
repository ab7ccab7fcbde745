"""The checks of docs/compatibility.md: each runs a subject in one way and compares it with eager execution."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from functorch.compile import make_boxed_func
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from tests.compatibility import data_parallel, gpu, quantization
from tests.compatibility.autocast import LOST, runs_under_autocast
from tests.compatibility.compare import (
    assert_same,
    inference,
    kernels_used,
    modes,
    results,
    training_step,
)
from tests.compatibility.subjects import Subject

#: What code generation is tried on, which takes a minute each.
GENERATED = ("dice_k3", "StridedDiCE", "dicenet_010")


class _NativeOperators(TorchDispatchMode):
    """Notes the names of the package's own operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace == "dicenas":
            self.names.add(str(function))
        return function(*args, **(kwargs or {}))


def native_operators(graph: torch.fx.Graph) -> set[str]:
    """The names of the package's own operators in a graph."""
    return {str(node.target) for node in graph.nodes if str(node.target).startswith("dicenas.")}


def compiles(subject: Subject) -> None:
    """One graph for forward and backward, in which every kernel stands that eager execution runs."""
    for training in modes(subject):
        graphs: list[torch.fx.Graph] = []

        def keep(module: torch.fx.GraphModule, inputs: Any, graphs: list[torch.fx.Graph] = graphs) -> Any:
            graphs.append(module.graph)
            return make_boxed_func(module.forward)

        torch._dynamo.reset()
        step = training_step if training else inference
        module, x = subject.module().train(training), subject.input()
        backend = aot_autograd(fw_compiler=keep, bw_compiler=keep)
        found = step(module, x, torch.compile(module, fullgraph=True, backend=backend))
        assert_same(found, results(subject, training))
        with kernels_used(True), _NativeOperators() as ran:
            step(subject.module(), x)
        kept = set().union(*map(native_operators, graphs))
        assert kept == ran.names, f"the graphs have {sorted(kept)}, eager execution runs {sorted(ran.names)}"


def compiles_to_code(subject: Subject) -> None:
    """The same with inductor, torch.compile's default."""
    for training in modes(subject):
        torch._dynamo.reset()
        module = subject.module().train(training)
        step = training_step if training else inference
        found = step(module, subject.input(), torch.compile(module, fullgraph=True))
        assert_same(found, results(subject, training))


def exports(subject: Subject) -> None:
    """A program for any batch, of standard operators alone though the kernels are loaded."""
    module, x = subject.module().eval(), subject.input()
    batch = torch.export.Dim("batch", min=1)
    with kernels_used(True):
        program = torch.export.export(module, (x,), dynamic_shapes=({0: batch},))
    assert native_operators(program.graph) == set()
    assert_same(inference(nn.Module(), x, program.module()), results(subject, training=False))
    other = subject.input(x.shape[0] + 1)
    assert_same(inference(nn.Module(), other, program.module()), inference(module, other))


def is_traced(subject: Subject) -> None:
    """A graph module that trains as the module does."""
    for training in modes(subject):
        step = training_step if training else inference
        for used in (True, False):
            module = torch.fx.symbolic_trace(subject.module().train(training))
            with kernels_used(used):
                assert_same(step(module, subject.input()), results(subject, training))


def runs_channels_last(subject: Subject) -> None:
    """Module and input in channels_last."""
    x = subject.input().contiguous(memory_format=torch.channels_last)
    for training in modes(subject):
        step = training_step if training else inference
        for used in (True, False):
            with kernels_used(used):
                found = step(subject.module().to(memory_format=torch.channels_last), x)
            assert_same(found, results(subject, training))


def is_checkpointed(subject: Subject) -> None:
    """Both forms of activation checkpointing; running statistics see each batch twice in both, as torch's do."""
    for reentrant in (False, True):
        for used in (True, False):
            module = subject.module()

            def run(x: Tensor, module: nn.Module = module, reentrant: bool = reentrant) -> Tensor:
                return checkpoint(module, x, use_reentrant=reentrant)

            with kernels_used(used):
                found = training_step(module, subject.input(), run)
            assert_same(found, results(subject, training=True), buffers=False)


@dataclass(frozen=True)
class Check:
    """A column of the table.

    Attributes:
        run: Raises where a subject differs from eager execution.
        applies: Whether a subject, by the name of its row, is checked at all.
        needs_gpu: Whether it needs a CUDA device.
        is_quick: Whether every row is checked in `make test`.
    """

    run: Callable[[Subject], None]
    applies: Callable[[str, Subject], bool] = lambda name, subject: True
    needs_gpu: bool = False
    is_quick: bool = False


def _trains(name: str, subject: Subject) -> bool:
    return subject.trains


BFLOAT16 = {torch.bfloat16: LOST[torch.bfloat16]}
#: By the title of their column.
CHECKS = {
    "compile": Check(compiles),
    "inductor": Check(compiles_to_code, lambda name, subject: name in GENERATED),
    "export": Check(exports),
    "fx": Check(is_traced, is_quick=True),
    "bfloat16": Check(partial(runs_under_autocast, device="cpu", lost=BFLOAT16), is_quick=True),
    "channels_last": Check(runs_channels_last, is_quick=True),
    "checkpoint": Check(is_checkpointed, _trains, is_quick=True),
    "DDP": Check(data_parallel.is_data_parallel, _trains),
    "int8": Check(quantization.is_quantized, lambda name, subject: name != "skip"),
    "CUDA AMP": Check(partial(runs_under_autocast, device="cuda", lost=LOST), needs_gpu=True),
    "CUDA graph": Check(gpu.is_captured, needs_gpu=True),
}

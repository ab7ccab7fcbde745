"""Capture of CUDA graphs, which needs a GPU."""

from __future__ import annotations

import torch

from tests.compatibility.compare import Results, assert_same, modes, results
from tests.compatibility.subjects import Subject

#: TF32 convolutions round products to 11 bits.
TF32 = 2e-3


def is_captured(subject: Subject) -> None:
    """A captured forward pass, with the backward pass where it trains, replayed on an input that came later."""
    for training in modes(subject):
        module = subject.module().cuda().train(training)
        static = torch.zeros(subject.input().shape, device="cuda", requires_grad=training)
        torch.manual_seed(0)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), torch.set_grad_enabled(training):
            for _ in range(3):  # libraries choose algorithms and allocate before
                y = module(static)
                if training:
                    weights = torch.linspace(-1, 2, y.numel(), device="cuda").view(y.shape).sin()
                    y.backward(weights)
        torch.cuda.current_stream().wait_stream(stream)
        module.zero_grad(set_to_none=True)
        static.grad = None
        module.load_state_dict(subject.module().state_dict())
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph), torch.set_grad_enabled(training):
            y = module(static)
            if training:
                y.backward(weights)
        with torch.no_grad():
            static.copy_(subject.input())
        graph.replay()
        torch.cuda.synchronize()
        gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
        if static.grad is not None:
            gradients = {"of the input": static.grad, **gradients}
        buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
        found = Results(y.detach(), gradients, buffers if training else {})
        assert_same(found, results(subject, training, "cuda"), TF32)

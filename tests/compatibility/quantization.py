"""torchao: static int8 quantisation of the exported program, of weights and inputs of every convolution."""

from __future__ import annotations

import torch
from torch import nn

from dicenas import fuse_for_inference
from tests.compatibility.compare import inference, norm, results
from tests.compatibility.subjects import Subject

#: What 8 bits leave of the output.
INT8 = 0.05
QUANTIZED = (torch.ops.aten.conv2d.default, torch.ops.aten.linear.default)


def is_quantized(subject: Subject) -> None:
    """Export, prepare, calibrate and convert: convolutions compute on int8, and the output stays near."""
    from torchao.quantization.pt2e import MinMaxObserver, PerChannelMinMaxObserver
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, QuantizationSpec, Quantizer

    inputs = QuantizationSpec(torch.uint8, MinMaxObserver, 0, 255, torch.per_tensor_affine)
    weights = QuantizationSpec(torch.int8, PerChannelMinMaxObserver, -127, 127, torch.per_channel_symmetric, 0)

    class EveryConvolution(Quantizer):  # type: ignore[misc]
        def annotate(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
            for node in model.graph.nodes:
                if node.target in QUANTIZED:
                    each = {node.args[0]: inputs, node.args[1]: weights}
                    node.meta["quantization_annotation"] = QuantizationAnnotation(each, _annotated=True)
            return model

        def validate(self, model: torch.fx.GraphModule) -> None:
            pass

    expected = results(subject, training=False).output
    # Folded before, as it would be deployed: for each normalisation that is left, torchao looks for those of its own
    # quantisation-aware training, which takes it half a minute.
    module, x = fuse_for_inference(subject.module()), subject.input()
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(module, (x,), dynamic_shapes=({0: batch},)).module()
    layers = sum(node.target in QUANTIZED for node in program.graph.nodes)
    prepared = prepare_pt2e(program, EveryConvolution())
    inference(nn.Module(), x, prepared)
    converted = convert_pt2e(prepared)
    names = [str(node.target) for node in converted.graph.nodes]
    assert sum("dequantize_per_channel" in name for name in names) == layers > 0
    found = inference(nn.Module(), x, converted).output
    error = norm(found - expected) / norm(expected)
    assert error <= INT8, f"int8 changes the output by {error:.2g} of its size, more than {INT8}"
    assert inference(nn.Module(), subject.input(3), converted).output.shape[0] == 3

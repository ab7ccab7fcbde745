"""torchao's quantisation of single layers, beside that of exported programs in the table."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchao.quantization import Int8WeightOnlyConfig, quantize_

from tests.compatibility.compare import assert_near, inference, results
from tests.compatibility.subjects import SUBJECTS


@pytest.mark.parametrize("name", ["dicenet_010", "dicenet_010, fused"])
def test_the_classifier_of_dicenet_takes_eight_bits(name: str) -> None:
    subject = SUBJECTS[name]
    net = subject.module()
    quantize_(net, Int8WeightOnlyConfig())
    changed = {name for name, parameter in net.named_parameters() if type(parameter.data) is not torch.Tensor}
    assert changed == {f"{name}.weight" for name, layer in net.named_modules() if isinstance(layer, nn.Linear)} != set()
    assert_near(inference(net, subject.input()), results(subject, training=False), 0.02, 0)

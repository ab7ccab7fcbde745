"""DiCE units in place of the last separable convolutions of torchvision's MobileNetV2.

Run: python examples/convert_mobilenet.py
"""

import copy

import torch
import torchvision

import dicenas
from dicenas.cost import LatencySettings, measure_interleaved

IMAGE_SIZE = 96


def main() -> None:
    """Convert, print the report, measure both networks in turns, and take a training step."""
    torch.manual_seed(0)
    model = torchvision.models.mobilenet_v2(width_mult=0.35)
    original = copy.deepcopy(model)
    report = dicenas.convert(model, IMAGE_SIZE, op="dice", where="features.1[4-7].*")
    print(report)

    networks = {"before": original.eval(), "after": model.eval()}
    latency = measure_interleaved(networks, (3, IMAGE_SIZE, IMAGE_SIZE), LatencySettings(), rounds=5)
    for name, result in latency.items():
        print(f"{name}: {result.latency_ms:.2f} ms on {result.device_name}, one image, {result.threads} thread")

    # The other layers keep their weights, the new ones are fresh: the network is to be fine-tuned.
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    logits = model.train()(torch.randn(4, 3, IMAGE_SIZE, IMAGE_SIZE))
    torch.nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    optimizer.step()
    print(f"one training step taken, logits {tuple(logits.shape)}")


if __name__ == "__main__":
    main()

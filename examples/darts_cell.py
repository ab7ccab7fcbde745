"""DiCE units among the primitives of DARTS (arXiv 1806.09055): a small cell learns which op to take where.

``primitives`` gives a dictionary of the form of DARTS' ``OPS``, called as ``OPS[name](C, stride, affine)``; with a copy
of the published code, ``operations.OPS.update(primitives(...))`` and names more in ``genotypes.PRIMITIVES`` are all.

Run: python examples/darts_cell.py
"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from dicenas.integrations.darts import primitives

CHANNELS, IMAGE_SIZE = 8, 8
OPS = {
    "skip_connect": lambda C, stride, affine: nn.Identity() if stride == 1 else nn.Conv2d(C, C, 1, stride, bias=False),
    "avg_pool_3x3": lambda C, stride, affine: nn.AvgPool2d(3, stride, 1, count_include_pad=False),
    **primitives(IMAGE_SIZE, CHANNELS, ops=["separable_k3", "dice_k3"]),
}


class MixedOp(nn.Module):
    """The sum of all primitives, each with a weight: ``(N, C, H, W)`` to ``(N, C, H / stride, W / stride)``."""

    def __init__(self, C: int, stride: int) -> None:
        super().__init__()
        self.ops = nn.ModuleList(OPS[name](C, stride, False) for name in OPS)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        return sum(weight * op(x) for weight, op in zip(weights, self.ops, strict=True))


class Network(nn.Module):
    """A stem, two mixed ops of stride 1 and 2, and a classifier; ``alphas`` decides between the primitives."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, CHANNELS, 3, padding=1, bias=False), nn.BatchNorm2d(CHANNELS))
        self.edges = nn.ModuleList([MixedOp(CHANNELS, 1), MixedOp(CHANNELS, 2)])
        self.classifier = nn.Linear(CHANNELS, 10)
        self.alphas = nn.Parameter(torch.zeros(len(self.edges), len(OPS)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for edge, weights in zip(self.edges, self.alphas.softmax(1), strict=True):
            x = edge(x, weights)
        return self.classifier(x.mean((2, 3)))


def main() -> None:
    """Train weights and alphas in turns, on two halves of the digits, and print the alphas."""
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    classes = torch.tensor(digits.target)
    network = Network()
    weights = [p for name, p in network.named_parameters() if name != "alphas"]
    optimizers = [torch.optim.SGD(weights, 0.1, 0.9), torch.optim.Adam([network.alphas], 0.05)]
    for step in range(30):
        for half, optimizer in enumerate(optimizers):
            batch = torch.randint(len(images) // 2, (32,)) * 2 + half
            loss = nn.functional.cross_entropy(network(images[batch]), classes[batch])
            network.zero_grad()
            loss.backward()
            optimizer.step()
        if step % 10 == 9:
            print(f"step {step + 1}: loss {loss.item():.3f}")
    for stride, row in enumerate(network.alphas.softmax(1), 1):
        shares = ", ".join(f"{name} {share:.2f}" for name, share in zip(OPS, row.tolist(), strict=True))
        print(f"edge of stride {stride}: {shares}")


if __name__ == "__main__":
    main()

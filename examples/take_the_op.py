"""DiCE in a network of one's own: torch is all it needs, neither NNI nor anything else of this package.

Run: python examples/take_the_op.py
"""

import sys

import torch
from torch import Tensor, nn

from dicenas.ops import DiCE, StridedDiCE


class Net(nn.Module):
    """Images ``(N, 1, 32, 32)`` to 4 logits; ``size`` is the native size of each unit's output."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=False),
            StridedDiCE(16, size=(16, 16)),  # 16 to 32 channels, 32 x 32 to 16 x 16 pixels
            DiCE(32, 48, size=(16, 16)),
        )
        self.classifier = nn.Linear(48, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


def stripes(number: int) -> tuple[Tensor, Tensor]:
    """Return noisy images of stripes and their classes: rising, falling, level, upright."""
    classes = torch.randint(4, (number,))
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    patterns = torch.stack([rows + columns, rows - columns, rows, columns])[classes]
    phases = torch.rand(number, 1, 1) * 6.28
    return (torch.sin(patterns + phases) + torch.randn(number, 32, 32)).unsqueeze(1), classes


def main() -> None:
    """Train for some steps, and try images of another size than the native one."""
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3)
    for step in range(1, 31):
        images, classes = stripes(32)
        loss = nn.functional.cross_entropy(net(images), classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 0:
            print(f"step {step}: loss {loss.item():.3f}")
    images, classes = stripes(200)
    with torch.no_grad():
        accuracy = (net.eval()(images).argmax(1) == classes).float().mean()
        print(f"accuracy on new images: {accuracy:.2f}")
        print(f"images of 24 x 40 pixels work too: {tuple(net(images[:2, :, :24].repeat(1, 1, 1, 2)[..., :40]).shape)}")
    print(f"loaded besides torch: {sorted({'nni', 'optuna', 'timm', 'torchvision'} & sys.modules.keys()) or 'nothing'}")


if __name__ == "__main__":
    main()

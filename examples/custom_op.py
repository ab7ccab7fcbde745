"""An op of one's own, registered in ten lines: costed, measured, searched, converted to and exported like ours.

Run: python examples/custom_op.py
"""

import tempfile
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

import dicenas
from dicenas.cost import LatencySettings, measure_interleaved
from dicenas.evaluation import DataConfig, TrainConfig, load_data, train_and_evaluate
from dicenas.export import export_network
from dicenas.ops import CandidateArguments, build_op, candidate_cost, make_activation, register_op


class Ghost(nn.Module):
    """GhostNet's module (arXiv 1911.11907): half of the channels are cheap functions of the other half."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        half = (out_channels + 1) // 2
        self.out_channels = out_channels
        self.primary = nn.Sequential(nn.Conv2d(in_channels, half, 1, stride, bias=False), nn.BatchNorm2d(half))
        self.cheap = nn.Conv2d(half, half, kernel_size, padding=kernel_size // 2, groups=half, bias=False)
        self.norm = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        x = self.primary(x).relu()
        return torch.cat((x, self.norm(self.cheap(x))), 1)[:, : self.out_channels]


@register_op("ghost", kernel_sizes=(3, 5))
def ghost(
    in_channels: int, out_channels: int, *, stride: int, size: tuple[int, int], kernel_size: int, activation: str,
    final_activation: bool,
) -> nn.Module:  # fmt: skip
    """Ghost module: half of the channels by a point-wise convolution, the others from them."""
    act = make_activation(activation, out_channels) if final_activation else nn.Identity()
    return nn.Sequential(Ghost(in_channels, out_channels, kernel_size, stride), act)


def costs() -> None:
    """Compare it with ours on maps of 28 x 28: closed forms and counts, and latency measured in turns."""
    names = ("ghost", "separable", "dice")
    ops = {name: build_op(name, 64, 64, size=(28, 28)).eval() for name in names}
    latency = measure_interleaved(ops, (64, 28, 28), LatencySettings(), rounds=5)
    for name in names:
        cost = candidate_cost(f"{name}_k3", CandidateArguments(64, 64, 1, (28, 28), 3, "prelu", True))
        print(f"{name}: {cost.macs:,} FLOPs (MACs), {cost.params:,} parameters, {latency[name].latency_ms:.3f} ms")


def search(folder: Path) -> dicenas.Architecture:
    """Search networks with it and return the best one."""
    data = load_data(DataConfig("digits", train_limit=200, val_limit=100))
    space = dicenas.SpaceSpec(
        "shufflenetv2", ops=("ghost_k3", "dice_k3"), widths=(0.1,), depths=((1,),) * 3, stems=("small",),
        resolutions=(32,), num_classes=10,
    )  # fmt: skip
    result = dicenas.search(
        space,
        lambda architecture, net, report: train_and_evaluate(net, data, TrainConfig(epochs=1, batch=50)),
        objectives=("accuracy", "macs"),
        trials=2,
        out=folder,
    )
    print(f"searched: {[trial.architecture.stages for trial in result.front]}")
    return result.best.architecture


def main() -> None:
    """Take it through everything that a candidate op goes through."""
    torch.manual_seed(0)
    costs()
    with tempfile.TemporaryDirectory() as name:
        best = search(Path(name))
        model = torchvision.models.mobilenet_v2(width_mult=0.35)
        print(str(dicenas.convert(model, 96, op="ghost", where="features.1?.*")).splitlines()[0])
        architecture = best.replace(stages=(("ghost_k3", "ghost_k5"), *best.stages[1:]))
        exported = export_network(dicenas.build(architecture), Path(name) / "exported")
        source = (exported.path / "model.py").read_text(encoding="utf-8")
        (line,) = (line for line in source.splitlines() if "GhostNet" in line)
        print(f"exported and verified; model.py has the class with its text: {line.strip()}")


if __name__ == "__main__":
    main()

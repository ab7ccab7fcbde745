"""The fused kernels against eager PyTorch, its best form, torch.compile and, with ``--edgenets``, the published code.

    python benchmarks/kernels.py --threads 1 --json benchmarks/results/kernels-cpu-1.json

A row is one shape. Columns of times (medians, us): `eager`, the published data flow (clones, transposes, copies);
`views`, the fallback of dicenas (convolutions of transposed views); `branches`, its three convolutions without joining
them (Figure 6's three launches); `kernel`, the one call; `block_*`, with normalisation, PReLU and local fusion in
inference; `unit_*`, the whole unit in inference; `train_*`, forward and backward of the unit; `copy`, moving as many
bytes as `kernel` has to.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable
from pathlib import Path

from measure import interleaved, keep_memory, machine, ratio, summary, write

SHAPES = [(116, 28), (232, 14), (464, 7), (278, 28), (556, 14), (1112, 7)]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "float16", "bfloat16"), default=["float32"])
    parser.add_argument("--shapes", type=int, default=len(SHAPES), help="the first so many shapes (default: all)")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--compile", action="store_true", help="measure torch.compile of the fallback too")
    parser.add_argument("--edgenets", type=Path, help="a checkout of the published code")
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    keep_memory()
    import torch

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rows: list[dict[str, object]] = []
    for dtype, batch, (channels, size) in itertools.product(args.dtypes, args.batches, SHAPES[: args.shapes]):
        rows.append(measure_shape(args, getattr(torch, dtype), batch, channels, size))
        print(rows[-1], flush=True)
    write(args.json, machine(args.device, args.threads), rows)


def measure_shape(args: argparse.Namespace, dtype: object, batch: int, channels: int, size: int) -> dict[str, object]:
    """Measure one row."""
    import torch

    from dicenas.nets import FusedDiCE
    from dicenas.ops import DiCE, dim_conv_reference, kernels

    options = {"device": args.device, "dtype": dtype}
    unit = DiCE(channels, channels, (size, size)).to(**options).eval()
    fused = FusedDiCE(unit).eval()
    conv, fuse = unit.dim_conv, unit.dim_fuse
    filters = [w.detach() for w in (conv.weight_channel, conv.weight_width, conv.weight_height)]
    # On a GPU inputs take turns among more memory than its cache holds.
    each = batch * channels * size * size * filters[0].element_size()
    copies = max(1, 256 * 2**20 // each) if args.device == "cuda" else 1
    inputs = itertools.cycle([torch.randn(batch, channels, size, size, **options) for _ in range(min(copies, 64))])
    moved = itertools.cycle(
        [torch.randn(batch * 2 * channels * size * size, **options) for _ in range(min(copies, 32))]
    )
    target = torch.empty(batch * 2 * channels * size * size, **options)
    grad = torch.randn(batch, channels, size, size, **options)

    def branches(x: torch.Tensor) -> None:
        c, w, h = filters
        torch.conv2d(x, c, padding=1, groups=len(c))
        torch.conv2d(x.transpose(1, 2), h, padding=1, groups=len(h))
        torch.conv2d(x.transpose(1, 3), w, padding=1, groups=len(w))

    def rest(y: torch.Tensor) -> torch.Tensor:
        return fuse.local(fuse.shuffle(unit.act(unit.norm(y))))

    def unit_from(dim_conv: Callable[..., torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        y = rest(dim_conv(x, conv.weight_channel, conv.weight_width, conv.weight_height))
        gate = fuse.gate_expand(fuse.gate_act(fuse.gate_reduce(y.mean((2, 3), keepdim=True))))
        return fuse.spatial(y) * torch.sigmoid(gate)

    def train(forward: Callable[[torch.Tensor], torch.Tensor]) -> None:
        unit.zero_grad()
        x = next(inputs).requires_grad_()
        x.grad = None
        forward(x).backward(grad)

    def train_eager() -> None:
        with kernels.disabled():
            train(lambda x: unit_from(published, x))

    def without_grad(run: Callable[[], object]) -> Callable[[], object]:
        return torch.no_grad()(run)

    candidates = {
        "copy": lambda: target.copy_(next(moved)),
        "eager": lambda: published(next(inputs), *filters),
        "views": lambda: dim_conv_reference(next(inputs), *filters),
        "branches": lambda: branches(next(inputs)),
        "kernel": lambda: kernels.dim_conv(next(inputs), *filters),
        "block_eager": lambda: rest(published(next(inputs), *filters)),
        "block_kernel": lambda: kernels.dim_conv_local(next(inputs), *filters, fused.local),
        "unit_eager": lambda: unit_from(published, next(inputs)),
        "unit_kernel": lambda: fused(next(inputs)),
    }
    if args.compile:
        compiled = torch.compile(dim_conv_reference, dynamic=False)
        candidates["compiled"] = lambda: compiled(next(inputs), *filters)
    if args.edgenets is not None:
        theirs = edgenets_unit(args.edgenets, channels, size).to(**options).eval()
        candidates["unit_edgenets"] = lambda: theirs(next(inputs))
    times = interleaved({name: without_grad(run) for name, run in candidates.items()}, args.rounds, args.device)
    if args.device == "cpu":
        unit.train()
        times |= interleaved({"train_eager": train_eager, "train_kernel": lambda: train(unit)}, args.rounds)
        ratios = {"train": ratio(times, "train_eager", "train_kernel")}
    else:
        ratios = {}
    ratios |= {
        "forward": ratio(times, "eager", "kernel"),
        "forward_against_views": ratio(times, "views", "kernel"),
        "three_launches_against_one": ratio(times, "branches", "kernel"),
        "block": ratio(times, "block_eager", "block_kernel"),
        "unit": ratio(times, "unit_eager", "unit_kernel"),
        "share_of_copy_bandwidth": ratio(times, "copy", "kernel"),
    }
    shape = {"batch": batch, "channels": channels, "size": size, "dtype": str(dtype).removeprefix("torch.")}
    return {**shape, "us": summary(times), "ratios": ratios}


def published(x: object, channel: object, width: object, height: object) -> object:
    """Dimension-wise convolution with the data flow of the published code: clones, transposes, copies."""
    import torch

    by_channel = torch.conv2d(x, channel, padding=1, groups=len(channel))
    turned = x.clone().transpose(1, 2).contiguous()
    by_height = torch.conv2d(turned, height, padding=1, groups=len(height)).transpose(1, 2).contiguous()
    turned = x.clone().transpose(1, 3).contiguous()
    by_width = torch.conv2d(turned, width, padding=1, groups=len(width)).transpose(1, 3).contiguous()
    return torch.cat((by_channel, by_height, by_width), 1)


def edgenets_unit(path: Path, channels: int, size: int) -> object:
    """Build the published unit from a checkout of EdgeNets."""
    sys.path.insert(0, str(path))
    from nn_layers.dice import DICE

    return DICE(channels, channels, size, size)


if __name__ == "__main__":
    main()

"""The fused kernels against eager PyTorch, its best form, torch.compile and, with ``--edgenets``, the published code.

    python benchmarks/kernels.py --threads 1 --json benchmarks/results/kernels-cpu-1-thread.json
    python benchmarks/kernels.py --batches 1 --shapes 116x28 --only branch --seconds 1    # a look, in seconds
    python benchmarks/kernels.py --shapes 116x32@28 116x56@28    # maps that are not of the unit's native size, 28

A row is one shape. Columns of times (medians, us), in groups that ``--only`` selects from:

- `copy`: moving as many bytes as `kernel` has to.
- branch: dimension-wise convolution in inference. `eager`, the published data flow (clones, transposes, copies);
  `views`, the fallback of dicenas (convolutions of transposed views); `branches`, its three convolutions without
  joining them (Figure 6's three launches); `compiled`, torch.compile of `views` (``--compile``); `kernel`, one call.
  Where the map is not of the native size, `kernel_native` in place of `branches`: the kernel, if it were.
- block: the same with normalisation, PReLU and local fusion, `block_eager` and `block_kernel`.
- unit: the whole unit in inference, `unit_eager`, `unit_kernel` and `unit_edgenets`, the published code.
- train: forward and backward of the unit in training, `train_eager`, `train_kernel` and `train_edgenets`.

The kernels have no float64, and on a GPU the native size only; there `kernel` is what dicenas runs instead. On a GPU
inputs take turns among more memory than its cache holds, and times are those of replays of a graph.
"""

from __future__ import annotations

import argparse
import itertools
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from measure import interleaved, keep_memory, machine, ratio, summary, write

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Run = Callable[[], object]


class Shape(NamedTuple):
    """Channels and size of a map, and the native size of the unit that takes it."""

    channels: int
    size: int
    native: int


#: DiCENet's maps at 224x224: s = 1, then s = 2.4.
SHAPES = tuple(
    Shape(channels, size, size) for channels, size in ((116, 28), (232, 14), (464, 7), (278, 28), (556, 14), (1112, 7))
)
DTYPES = ("float32", "float64", "float16", "bfloat16")
GROUPS = ("branch", "block", "unit", "train")

#: Ratios of a row: name, slow candidate, fast candidate.
RATIOS = (
    ("forward", "eager", "kernel"),
    ("forward_against_views", "views", "kernel"),
    ("forward_against_compiled", "compiled", "kernel"),
    ("three_launches_against_one", "branches", "kernel"),
    ("against_native", "kernel", "kernel_native"),
    ("block", "block_eager", "block_kernel"),
    ("unit", "unit_eager", "unit_kernel"),
    ("unit_against_edgenets", "unit_edgenets", "unit_kernel"),
    ("train", "train_eager", "train_kernel"),
    ("train_against_edgenets", "train_edgenets", "train_kernel"),
    ("share_of_copy_bandwidth", "copy", "kernel"),
)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="(default: 1)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 64], help="(default: 1 8 32 64)")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["float32"], help="(default: float32)")
    parser.add_argument(
        "--shapes",
        type=parse_shape,
        nargs="+",
        default=SHAPES,
        help="channels and size of the map, such as 116x28, with the native size where that is another: 116x32@28 "
        "(default: DiCENet's at 224x224)",
    )
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=GROUPS, help="(default: all)")
    parser.add_argument("--seconds", type=float, default=4, help="for each row (default: 4)")
    parser.add_argument("--compile", action="store_true", help="measure torch.compile of the fallback too")
    parser.add_argument("--edgenets", type=Path, help="a checkout of the published code")
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    keep_memory()
    import torch

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rows: list[dict[str, object]] = []
    for dtype, batch, shape in itertools.product(args.dtypes, args.batches, args.shapes):
        case = Case(args.device, getattr(torch, dtype), batch, shape, args.edgenets)
        times = measure(case, args.only, args.compile, args.seconds)
        ratios = {name: ratio(times, slow, fast) for name, slow, fast in RATIOS if slow in times and fast in times}
        about = {"batch": batch, **shape._asdict(), "dtype": dtype}
        rows.append({**about, "us": summary(times), "ratios": ratios})
        print(rows[-1], flush=True)
    write(args.json, machine(args.device, args.threads), rows)


def parse_shape(text: str) -> Shape:
    """Read ``CHANNELSxSIZE`` or ``CHANNELSxSIZE@NATIVE``."""
    found = re.fullmatch(r"(\d+)x(\d+)(?:@(\d+))?", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form 116x28 or 116x32@28")
    return Shape(int(found[1]), int(found[2]), int(found[3] or found[2]))


class Case:
    """The unit of one row, and inputs for it."""

    def __init__(self, device: str, dtype: torch.dtype, batch: int, shape: Shape, edgenets: Path | None) -> None:
        import torch

        from dicenas.ops import DiCE

        self.device = device
        options = {"device": device, "dtype": dtype}
        channels, size, native = shape
        self.is_native = size == native
        self.unit = DiCE(channels, channels, (native, native)).to(**options).eval()
        conv = self.unit.dim_conv
        self.filters = [w.detach() for w in (conv.weight_channel, conv.weight_width, conv.weight_height)]
        self.filters_of_size = [self.filters[0], *(torch.randn(size, 1, 3, 3, **options) for _ in range(2))]
        theirs = None if edgenets is None else edgenets_unit(edgenets, channels, native)
        self.published_unit = None if theirs is None else theirs.to(**options).eval()
        self.grad = torch.randn((batch, channels, size, size), **options)
        memory = 256 * 2**20 if device == "cuda" else 1
        bytes_each = self.grad.numel() * self.grad.element_size()
        turns = max(1, min(64, memory // bytes_each))
        self.inputs = itertools.cycle([torch.randn_like(self.grad).requires_grad_() for _ in range(turns)])
        moved = [[torch.randn(2 * self.grad.numel(), **options) for _ in range(turns)] for _ in range(2)]
        self.copied, self.targets = itertools.cycle(moved[0]), itertools.cycle(moved[1])

    @property
    def has_kernels(self) -> bool:
        """Whether there are fused kernels for the data type and, on a GPU, for the size."""
        from dicenas.ops import kernels

        suits = self.grad.dtype in kernels.DTYPES and (self.is_native or self.device == "cpu")
        return suits and kernels.available(self.device)

    def published_local(self, x: Tensor) -> Tensor:
        """Run the unit up to local fusion with the published data flow."""
        conv, fuse = self.unit.dim_conv, self.unit.dim_fuse
        y = published(x, conv.weight_channel, conv.weight_width, conv.weight_height)
        return fuse.local(fuse.shuffle(self.unit.act(self.unit.norm(y))))

    def published_data_flow(self, x: Tensor) -> Tensor:
        """Run the whole unit with the published data flow."""
        import torch

        fuse = self.unit.dim_fuse
        y = self.published_local(x)
        gate = fuse.gate_expand(fuse.gate_act(fuse.gate_reduce(y.mean((2, 3), keepdim=True))))
        return fuse.spatial(y) * torch.sigmoid(gate)


def measure(case: Case, groups: list[str], compiles: bool, seconds: float) -> dict[str, list[float]]:
    """Measure one row; inference and training take turns among themselves."""
    import torch

    from dicenas.ops import kernels

    inference = dict(inference_candidates(case, groups, compiles))
    runs = {name: torch.no_grad()(run) for name, run in inference.items()}
    times = interleaved(runs, seconds if "train" not in groups else seconds / 2, case.device)
    if "train" in groups:
        case.unit.train()
        steps = {"train_kernel": training_step(case, case.unit, case.unit)}
        steps["train_eager"] = kernels.disabled()(training_step(case, case.unit, case.published_data_flow))
        if case.published_unit is not None:
            case.published_unit.train()
            steps["train_edgenets"] = training_step(case, case.published_unit, case.published_unit)
        times |= interleaved(steps, seconds / 2, case.device)
    return times


def inference_candidates(case: Case, groups: list[str], compiles: bool) -> Iterator[tuple[str, Run]]:
    """Yield what is measured in inference."""
    import torch

    from dicenas.nets import FusedDiCE
    from dicenas.ops import dim_conv, dim_conv_reference, kernels

    inputs, filters = case.inputs, case.filters
    yield "copy", lambda: next(case.targets).copy_(next(case.copied))
    if "branch" in groups:
        yield "eager", lambda: published(next(inputs), *filters)
        yield "views", lambda: dim_conv_reference(next(inputs), *filters)
        if case.is_native:
            yield "branches", lambda: three_launches(next(inputs), *filters)
        if compiles:
            compiled = torch.compile(dim_conv_reference, dynamic=False)
            yield "compiled", lambda: compiled(next(inputs), *filters)
        ours = kernels.dim_conv if case.has_kernels else dim_conv
        yield "kernel", lambda: ours(next(inputs), *filters)
        if not case.is_native:
            yield "kernel_native", lambda: ours(next(inputs), *case.filters_of_size)
    fused = FusedDiCE(case.unit).eval()
    if "block" in groups:
        yield "block_eager", lambda: case.published_local(next(inputs))
        if case.has_kernels:
            yield "block_kernel", lambda: kernels.dim_conv_local(next(inputs), *filters, fused.local)
    if "unit" in groups:
        yield "unit_eager", lambda: case.published_data_flow(next(inputs))
        if case.published_unit is not None:
            theirs = case.published_unit
            yield "unit_edgenets", lambda: theirs(next(inputs))
        yield "unit_kernel", lambda: fused(next(inputs))


def training_step(case: Case, unit: nn.Module, forward: Callable[[Tensor], Tensor]) -> Run:
    """Forward and backward, with gradients of the input and all parameters."""
    import torch

    parameters = list(unit.parameters())

    def step() -> object:
        x = next(case.inputs)
        return torch.autograd.grad(forward(x), [x, *parameters], case.grad)

    return step


def three_launches(x: Tensor, channel: Tensor, width: Tensor, height: Tensor) -> None:
    """Run the three branches one after another, without joining them."""
    import torch

    torch.conv2d(x, channel, padding=1, groups=len(channel))
    torch.conv2d(x.transpose(1, 2), height, padding=1, groups=len(height))
    torch.conv2d(x.transpose(1, 3), width, padding=1, groups=len(width))


def published(x: Tensor, channel: Tensor, width: Tensor, height: Tensor) -> Tensor:
    """Dimension-wise convolution with the data flow of the published code: clones, transposes, copies."""
    import torch

    h, w = x.shape[2:]
    by_channel = torch.conv2d(x, channel, padding=1, groups=len(channel))
    turned = resized(x.clone(), len(height), w).transpose(1, 2).contiguous()
    by_height = torch.conv2d(turned, height, padding=1, groups=len(height)).transpose(1, 2).contiguous()
    turned = resized(x.clone(), h, len(width)).transpose(1, 3).contiguous()
    by_width = torch.conv2d(turned, width, padding=1, groups=len(width)).transpose(1, 3).contiguous()
    return torch.cat((by_channel, resized(by_height, h, w), resized(by_width, h, w)), 1)


def resized(x: Tensor, height: int, width: int) -> Tensor:
    """Resize one axis of a map, where it has another size: up by interpolation, down by pooling."""
    import torch.nn.functional as F

    size = (height, width)
    if tuple(x.shape[2:]) == size:
        return x
    if x.shape[2] < height or x.shape[3] < width:
        return F.interpolate(x, size=size, mode="bilinear", align_corners=True)
    return F.adaptive_avg_pool2d(x, size)


def edgenets_unit(path: Path, channels: int, size: int) -> nn.Module:
    """Build the published unit from a checkout of EdgeNets."""
    if str(path) not in sys.path:
        sys.path.insert(0, str(path))
    from nn_layers.dice import DICE

    return DICE(channels, channels, size, size)


if __name__ == "__main__":
    main()

"""``dicenas profile``: what a network costs, block by block."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from dicenas.cli.arguments import Subparsers, positive_int, trial

if TYPE_CHECKING:
    from dicenas.architecture import Architecture
    from dicenas.ops import Cost

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Show what a network costs: FLOPs (MACs) and parameters block by block, peak memory, and its latency measured on
this machine. The closed forms that searches use are checked against a count over the built network.

SOURCE is a run folder, an architecture file, or the name of a network.
"""
_EXAMPLES = """\
examples:
  dicenas profile dicenet_100
  dicenas profile runs/quickstart --trial 7 --threads 2
  dicenas profile mobilenetv2_100 --device cuda --batch 32 --runtime eager
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "profile", help="show what a network costs", description=_DESCRIPTION, epilog=_EXAMPLES
    )
    parser.add_argument("source", metavar="SOURCE", help="run folder, architecture file, or name of a network")
    parser.add_argument("--trial", type=trial, help="'best' or the number of a trial of the run (default: best)")
    parser.add_argument(
        "--input-size",
        type=positive_int,
        metavar="PIXELS",
        help="image size (default: where the run took its costs, else the network's own)",
    )
    parser.add_argument("--batch", type=positive_int, default=1, help="images a forward pass (default: 1)")
    parser.add_argument("--threads", type=positive_int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--runtime", default="kernels", help="eager, kernels, fused or compiled (default: kernels)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default: cpu)")
    parser.add_argument("--dtype", default="float32", help="number type, such as float16 (default: float32)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the costs of a network."""
    from dicenas.cli.source import read_source
    from dicenas.cost import DTYPES, count_macs, count_params, measure_latency, peak_memory_mb
    from dicenas.nets import build
    from dicenas.ops import Cost
    from dicenas.report.metrics import get_metric

    source = read_source(args.source, args.trial)
    architecture = source.architecture
    if args.input_size is not None:
        architecture = architecture.at_size(args.input_size)
    elif source.summary is not None:
        architecture = source.summary.deployed(architecture)
    network = build(architecture).eval()
    input_size = (architecture.in_channels, *architecture.image_size)
    where = {"device": args.device, "batch": args.batch}
    latency = measure_latency(
        network, input_size, dtype=args.dtype, threads=args.threads, runtime=args.runtime, **where
    )
    memory = peak_memory_mb(network, input_size, dtype=DTYPES[args.dtype], **where)

    total = _print_blocks(source.name, architecture)
    counted = Cost(count_macs(network, input_size), count_params(network))
    if counted != total:
        raise ValueError(
            f"counted over the built network: {counted.macs:,} MACs and {counted.params:,} parameters; the closed form "
            "of an op above is wrong (the `cost` it was registered with)"
        )
    print("\nA count over the built network gives the same totals.")
    print(f"Peak memory of activations: {get_metric('peak_memory_mb').format(memory, unit=True)}")
    print(
        f"Latency: {latency.latency_ms:.3g} ms (middle half {latency.p25_ms:.3g} to {latency.p75_ms:.3g} ms, "
        f"{latency.repeats} runs{', noisy' if latency.verdict == 'noisy' else ''})"
    )
    print(
        f"  batch {latency.batch}, runtime {latency.runtime}, {latency.dtype}, threads {latency.threads}, "
        f"{latency.device}: {latency.device_name}, torch {latency.torch_version}"
    )
    return 0


def _print_blocks(name: str, architecture: Architecture) -> Cost:
    """Print the table of blocks and return the sum of their costs."""
    from dicenas.nets import get_backbone
    from dicenas.ops import Cost
    from dicenas.report import print_table

    family = get_backbone(architecture.backbone)
    layout = family.layout(architecture)
    costs = [family.block_cost(block) for block in layout.blocks]
    total = sum(costs, Cost())
    places = ["stem", *(f"s{i}_b{j}" for i, stage in enumerate(layout.stages, 1) for j in range(len(stage))), "head"]
    rows = [
        [
            place,
            block.kind,
            block.op or "",
            f"{block.in_channels} → {block.out_channels}",
            _size(block.in_size) + ("" if place == "head" else f" → {_size(block.size)}"),
            f"{cost.macs:,}",
            f"{cost.macs / total.macs:.1%}",
            f"{cost.params:,}",
            f"{cost.params / total.params:.1%}",
        ]
        for place, block, cost in zip(places, layout.blocks, costs, strict=True)
    ]
    rows.append(["total", "", "", "", "", f"{total.macs:,}", "100.0%", f"{total.params:,}", "100.0%"])
    columns = ["block", "kind", "op", "channels", "size", "MACs", "share", "params", "share"]
    title = f"{name}: {architecture.backbone}, width {architecture.width:g}, {_size(architecture.image_size)}"
    print_table(columns, rows, align="lllrrrrrr", title=title)
    return total


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"

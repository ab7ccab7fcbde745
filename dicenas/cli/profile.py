"""``dicenas profile``: what a network costs, block by block."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dicenas.cli.arguments import Subparsers, positive_int, trial

if TYPE_CHECKING:
    from dicenas.architecture import Architecture
    from dicenas.cost import BlockProfile, KernelTime, LayerKind
    from dicenas.ops import Cost

__all__ = ["add_parser", "run"]

_KERNELS_SHOWN = 15

_DESCRIPTION = """\
Show what a network costs: FLOPs (MACs), parameters and time block by block and by kind of layer, peak memory, and its
latency measured on this machine. The closed forms that searches use are checked against a count over the built network.

SOURCE is a run folder, an architecture file, the name of a network, or a row of the paper in configs/paper.
"""
_EXAMPLES = """\
examples:
  dicenas profile dicenet_100
  dicenas profile runs/quickstart --trial 7 --threads 2
  dicenas profile dicenet_100 --plot dicenet.png
  dicenas profile dicenet_100 --kernels
  dicenas profile mobilenetv2_100 --device cuda --batch 32 --runtime eager
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "profile", help="show what a network costs", description=_DESCRIPTION, epilog=_EXAMPLES
    )
    parser.add_argument("source", metavar="SOURCE", help="run folder, architecture file, name of a network, or row")
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
    parser.add_argument("--kernels", action="store_true", help="list the kernels that take most, by torch.profiler")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw it into this file, .png, .svg or .pdf")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the costs of a network."""
    if args.kernels:  # else the profiler writes of its own affairs; it reads this when torch is loaded
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    from dicenas.cli.source import read_source
    from dicenas.cost import (
        DTYPES,
        LatencySettings,
        count_macs,
        count_params,
        kernel_times,
        measure_latency,
        peak_memory_mb,
        profile_blocks,
    )
    from dicenas.nets import build
    from dicenas.ops import Cost
    from dicenas.report.figures import check_plot_path
    from dicenas.report.metrics import get_metric
    from dicenas.report.plots import plot_profile

    if args.plot is not None:
        check_plot_path(args.plot)
    source = read_source(args.source, args.trial)
    architecture = source.architecture
    if args.input_size is not None:
        architecture = architecture.at_size(args.input_size)
    elif source.summary is not None:
        architecture = source.summary.deployed(architecture)
    network = build(architecture).eval()
    input_size = (architecture.in_channels, *architecture.image_size)
    where = {"device": args.device, "batch": args.batch}
    how = {"dtype": args.dtype, "threads": args.threads, "runtime": args.runtime}
    latency = measure_latency(network, input_size, **how, **where)
    memory = peak_memory_mb(network, input_size, dtype=DTYPES[args.dtype], **where)
    modules = [f"stages.{i}.{j}" for i, stage in enumerate(architecture.stages) for j in range(len(stage))]
    profiles = profile_blocks(network, ["stem", *modules, "head"], input_size, LatencySettings(**how, **where))
    places = [f"s{i}_b{j}" for i, stage in enumerate(architecture.stages, 1) for j in range(len(stage))]
    places = ["stem", *places, "head"]

    total = _print_blocks(source.name, architecture, places, profiles)
    counted = Cost(count_macs(network, input_size), count_params(network))
    if counted != total:
        raise ValueError(
            f"counted over the built network: {counted.macs:,} MACs and {counted.params:,} parameters; the closed form "
            "of an op above is wrong (the `cost` it was registered with)"
        )
    print("\nA count over the built network gives the same totals.\n")
    _print_kinds(profiles)
    _print_bottleneck(places, profiles)
    print(f"Peak memory of activations: {get_metric('peak_memory_mb').format(memory, unit=True)}")
    print(
        f"Latency: {latency.latency_ms:.3g} ms (middle half {latency.p25_ms:.3g} to {latency.p75_ms:.3g} ms, "
        f"{latency.repeats} runs{', noisy' if latency.verdict == 'noisy' else ''})"
    )
    print(
        f"  batch {latency.batch}, runtime {latency.runtime}, {latency.dtype}, threads {latency.threads}, "
        f"{latency.device}: {latency.device_name}, torch {latency.torch_version}"
    )
    if latency.launch_overhead_ms is not None:
        print(f"  launched kernel by kernel, not as a CUDA graph: {latency.launch_overhead_ms:.3g} ms more")
    if args.kernels:
        _print_kernels(kernel_times(network, input_size, LatencySettings(**how, **where)))
    if args.plot is not None:
        title = (
            f"{source.name} at {_size(architecture.image_size)}: batch {latency.batch}, runtime {latency.runtime}, "
            f"{latency.dtype}, threads {latency.threads}, {latency.device_name}"
        )
        plot_profile(title, places, profiles, args.plot)
        print(f"Drawn into {args.plot}")
    return 0


def _print_blocks(
    name: str, architecture: Architecture, places: Sequence[str], profiles: Sequence[BlockProfile]
) -> Cost:
    """Print the table of blocks and return the sum of their costs in closed form."""
    from dicenas.nets import get_backbone
    from dicenas.ops import Cost
    from dicenas.report import print_table

    family = get_backbone(architecture.backbone)
    layout = family.layout(architecture)
    costs = [family.block_cost(block) for block in layout.blocks]
    total = sum(costs, Cost())
    total_ms = sum(profile.time_ms or 0.0 for profile in profiles)
    rows = [
        [
            place,
            block.kind,
            block.op or "",
            f"{block.in_channels} → {block.out_channels}",
            _size(block.in_size) + ("" if place == "head" else f" → {_size(block.size)}"),
            f"{cost.macs:,}",
            _percent(cost.macs, total.macs),
            f"{cost.params:,}",
            _percent(cost.params, total.params),
            _time(profile.time_ms),
            _percent(profile.time_ms or 0.0, total_ms),
        ]
        for place, block, cost, profile in zip(places, layout.blocks, costs, profiles, strict=True)
    ]
    sums = [f"{total.macs:,}", "100.0%", f"{total.params:,}", "100.0%", _time(total_ms), _percent(total_ms, total_ms)]
    rows.append(["total", "", "", "", "", *sums])
    columns = ["block", "kind", "op", "channels", "size", "MACs", "share", "params", "share", "ms", "share"]
    title = f"{name}: {architecture.backbone}, width {architecture.width:g}, {_size(architecture.image_size)}"
    print_table(columns, rows, align="lllrrrrrrrr", title=title)
    return total


def _print_kinds(profiles: Sequence[BlockProfile]) -> None:
    """Print the table of the kinds of layers."""
    from dicenas.cost import LAYER_KINDS
    from dicenas.ops import Cost
    from dicenas.report import print_table
    from dicenas.report.plots import KIND_LABELS

    total = sum((profile.cost for profile in profiles), Cost())
    times = _times_by_kind(profiles)
    total_ms = sum(times.values())
    rows = []
    for kind in LAYER_KINDS:
        cost = sum((profile.costs[kind] for profile in profiles), Cost())
        rows.append(
            [
                KIND_LABELS[kind],
                f"{cost.macs:,}",
                _percent(cost.macs, total.macs),
                f"{cost.params:,}",
                _percent(cost.params, total.params),
                _time(times.get(kind)),
                _percent(times.get(kind, 0.0), total_ms),
            ]
        )
    print_table(["kind of layer", "MACs", "share", "params", "share", "ms", "share"], rows, align="lrrrrrr")


def _print_bottleneck(places: Sequence[str], profiles: Sequence[BlockProfile]) -> None:
    """Name what takes the most time, or, where blocks were not timed, the most multiply-adds."""
    from dicenas.report.plots import KIND_LABELS

    def largest(names: Sequence[str], values: Sequence[float]) -> tuple[str, str]:
        place = max(range(len(values)), key=values.__getitem__)
        return names[place], f"{values[place] / sum(values):.0%}"

    block, share = largest(places, [profile.cost.macs for profile in profiles])
    text = f"Most multiply-adds: block {block} ({share})"
    if profiles[0].time_ms is not None:
        block, share = largest(places, [profile.time_ms or 0.0 for profile in profiles])
        text = f"Bottleneck: block {block} takes {share} of the time. {text}"
    if times := _times_by_kind(profiles):
        kind, share = largest([KIND_LABELS[kind] for kind in times], list(times.values()))
        text += f". Of the kinds of layers, most time: {kind} ({share})"
    print(f"\n{text}.")


def _print_kernels(kernels: Sequence[KernelTime]) -> None:
    """Print the table of the kernels that take most."""
    from dicenas.report import print_table

    total_ms = sum(kernel.time_ms for kernel in kernels)
    shown, rest = kernels[:_KERNELS_SHOWN], kernels[_KERNELS_SHOWN:]
    rows = [
        [kernel.name[:80], f"{kernel.calls:g}", _time(kernel.time_ms), _percent(kernel.time_ms, total_ms)]
        for kernel in shown
    ]
    if rest:
        rest_ms = sum(kernel.time_ms for kernel in rest)
        calls = sum(kernel.calls for kernel in rest)
        rows.append([f"{len(rest)} others", f"{calls:g}", _time(rest_ms), _percent(rest_ms, total_ms)])
    print()
    print_table(["kernel", "calls", "ms", "share"], rows, align="lrrr")
    print("The profiler itself takes time in each call: shares count, not sums.")


def _times_by_kind(profiles: Sequence[BlockProfile]) -> dict[LayerKind, float]:
    """Add up the times of the kinds of layers; empty where they were not taken."""
    from dicenas.cost import LAYER_KINDS

    if any(profile.times_ms is None for profile in profiles):
        return {}
    return {kind: sum((profile.times_ms or {})[kind] for profile in profiles) for kind in LAYER_KINDS}


def _percent(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else "–"


def _time(milliseconds: float | None) -> str:
    return f"{milliseconds:.3f}" if milliseconds else "–"


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"

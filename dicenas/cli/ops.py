"""``dicenas ops``: the registered candidate ops, and what they cost."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from dicenas.cli.arguments import Subparsers, positive_int

if TYPE_CHECKING:
    from dicenas.cost import CandidateProfile, LatencyResult, LatencySettings
    from dicenas.ops import CandidateArguments

__all__ = ["add_parser", "run"]

#: Groups of ops in the order of listings; those of other packages follow.
_GROUPS = ("identity", "convolution", "separable", "DiCE", "block", "ablation")
_ROUNDS = 15
_ACTIVATION = "prelu"

_DESCRIPTION = """\
List the candidate ops that blocks of a network can be made of. In a configuration an op's name stands for all its
kernel sizes, and dice_k3 for one of them.

With --cost, show what each costs by itself: FLOPs (MACs), parameters, memory of activations (float32, one image,
input included, at its peak), receptive field (the side of the window of the input that a pixel of the output sees;
"global" where a gate sees the whole map besides), and latency measured on this machine, all candidates in turns.
docs/choosing.md says which one to take when.
"""
_EXAMPLES = """\
examples:
  dicenas ops
  dicenas ops --cost 116 116 28                     what each costs for 116 channels on maps of 28 x 28
  dicenas ops --cost 116 232 14 --stride 2          the size is that of the output
  dicenas ops --cost 64 128 56 --only separable dice conv_k3 --sort latency
  dicenas ops --cost 464 464 7 --device cuda --runtime eager
  dicenas ops --cost 116 116 28 --no-latency        closed forms alone, in a second or two
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser("ops", help="list the candidate ops", description=_DESCRIPTION, epilog=_EXAMPLES)
    parser.add_argument(
        "--cost",
        nargs=3,
        type=positive_int,
        metavar=("C_IN", "C_OUT", "SIZE"),
        help="show what each costs for these channels and this size of the output (SIZE x SIZE), with PReLU",
    )
    parser.add_argument("--stride", type=int, choices=(1, 2), default=1, help="stride for --cost (default: 1)")
    parser.add_argument("--only", nargs="+", metavar="OP", help="ops or candidates to show (default: all)")
    parser.add_argument(
        "--sort",
        choices=("group", "macs", "params", "memory", "latency"),
        default="group",
        help="order of the rows for --cost (default: by group, then by FLOPs)",
    )
    parser.add_argument("--no-latency", action="store_true", help="measure nothing")
    parser.add_argument("--device", default="cpu", help="where to measure: cpu, cuda or cuda:N (default: cpu)")
    parser.add_argument("--threads", type=positive_int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--batch", type=positive_int, default=1, help="images a forward pass (default: 1)")
    parser.add_argument("--runtime", default="eager", help="eager, kernels or fused (default: eager)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the table of ops, or of their costs."""
    if args.cost is None:
        _print_ops(args.only)
    else:
        _print_costs(args)
    return 0


def _print_ops(only: Sequence[str] | None) -> None:
    from dicenas.ops import get_op, list_ops
    from dicenas.report import print_table

    ops = sorted(map(get_op, only or list_ops()), key=lambda op: (_place(op.group), op.name))
    rows = [[op.name, ", ".join(map(str, op.kernel_sizes)) or "–", op.summary.rstrip(".")] for op in ops]
    rows = _with_groups(rows, [op.group for op in ops])
    print_table(["group", "op", "kernel sizes", "summary"], rows, align="llll")


def _print_costs(args: argparse.Namespace) -> None:
    from dicenas.cost import LatencySettings, candidate_fits, profile_candidate
    from dicenas.ops import CandidateArguments, expand_candidates, list_ops, parse_candidate
    from dicenas.report import print_table

    in_channels, out_channels, size = args.cost
    arguments = CandidateArguments(in_channels, out_channels, args.stride, (size, size), 1, _ACTIVATION, True)
    candidates = expand_candidates(args.only or list_ops())
    settings = LatencySettings(args.device, args.batch, "float32", args.threads, args.runtime)
    if args.sort == "latency" and args.no_latency:
        raise ValueError("--sort latency needs latencies: leave out --no-latency")
    if not args.no_latency:
        _check_runtime(args.runtime)
    fitting = [candidate for candidate in candidates if candidate_fits(candidate, arguments)]
    profiles = {candidate: profile_candidate(candidate, arguments) for candidate in fitting}
    latencies = {} if args.no_latency or not fitting else _measure(fitting, arguments, settings)
    groups = {candidate: parse_candidate(candidate)[0].group for candidate in fitting}

    def key(candidate: str) -> tuple[float, float]:
        profile = profiles[candidate]
        if args.sort == "latency":
            return latencies[candidate].latency_ms, 0
        if args.sort == "group":
            return _place(groups[candidate]), profile.macs
        figures = {"macs": profile.macs, "params": profile.params, "memory": profile.peak_memory_mb}
        return figures[args.sort], profile.macs

    fitting.sort(key=key)
    rows = [_row(candidate, profiles[candidate], latencies.get(candidate)) for candidate in fitting]
    columns = ["candidate", "FLOPs (MACs)", "params", "memory KB", "receptive field"]
    align = "lrrrl"
    if latencies:
        columns += ["latency ms", "GMACs/s"]
        align += "rr"
    if args.sort == "group":
        rows = _with_groups(rows, [groups[candidate] for candidate in fitting])
        columns, align = ["group", *columns], "l" + align
    title = f"{in_channels} to {out_channels} channels, output {size}×{size}, stride {args.stride}"
    if not fitting:
        raise ValueError(f"none of {', '.join(candidates)} maps {title}")
    print_table(columns, rows, align=align, title=title)
    _print_notes(latencies, [candidate for candidate in candidates if candidate not in fitting])


def _check_runtime(runtime: str) -> None:
    if runtime in ("compiled", "onnxruntime"):
        raise ValueError(f"--runtime {runtime}: candidates are measured in turns, which takes eager, kernels or fused")


def _measure(
    candidates: Sequence[str], arguments: CandidateArguments, settings: LatencySettings
) -> dict[str, LatencyResult]:
    from tqdm import tqdm

    from dicenas.cost import build_for_profile, measure_interleaved

    modules = {candidate: build_for_profile(candidate, arguments) for candidate in candidates}
    input_size = (arguments.in_channels, *arguments.in_size)
    with tqdm(
        total=_ROUNDS, desc=f"measuring {len(modules)} candidates", unit="round", leave=False, disable=None
    ) as bar:
        return measure_interleaved(modules, input_size, settings, rounds=_ROUNDS, on_round=bar.update)


def _row(candidate: str, profile: CandidateProfile, latency: LatencyResult | None) -> list[str]:
    row = [
        candidate,
        f"{profile.macs:,}",
        f"{profile.params:,}",
        f"{profile.peak_memory_mb * 1e3:,.0f}",
        str(profile.receptive_field),
    ]
    if latency is not None:
        rate = profile.macs * latency.batch / latency.latency_ms / 1e6
        row += [f"{latency.latency_ms:.3f}", f"{rate:.1f}" if profile.macs else "–"]
    return row


def _print_notes(latencies: Mapping[str, LatencyResult], unfitting: Sequence[str]) -> None:
    if unfitting:
        print(f"\nDo not fit: {', '.join(unfitting)}")
    if latencies:
        first = next(iter(latencies.values()))
        noisy = sum(latency.verdict == "noisy" for latency in latencies.values())
        print(
            f"\nLatency: medians of {first.repeats} rounds, all candidates in turns; batch {first.batch}, "
            f"runtime {first.runtime}, threads {first.threads}"
        )
        print(f"  {first.device}: {first.device_name}, torch {first.torch_version}")
        if noisy:
            print(f"  {noisy} of {len(latencies)} medians are uncertain by more than 3 %: other work runs here")


def _place(group: str) -> int:
    return _GROUPS.index(group) if group in _GROUPS else len(_GROUPS)


def _with_groups(rows: Iterable[list[str]], groups: Sequence[str]) -> list[list[str]]:
    """Put each row's group in front of it where another group begins."""
    return [
        [group if index == 0 or groups[index - 1] != group else "", *row]
        for index, (row, group) in enumerate(zip(rows, groups, strict=True))
    ]

"""``dicenas latency``: measuring the latency table of a space, looking at it, and checking what it predicts."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from dicenas.cli.arguments import Subparsers, non_negative_int, positive_int

if TYPE_CHECKING:
    from dicenas.cost import LatencySettings
    from dicenas.cost.check import TableCheck
    from dicenas.cost.table import LatencyTable
    from dicenas.space import SpaceSpec

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Measure how long the blocks of a space take on this machine, so that a search can predict latencies instead of
measuring every network. `build` measures a table; interrupted, the same command goes on. `show` prints a table.
`check` measures networks that the table has not seen and compares them with what it predicts, beside what plain sums
of blocks and FLOPs alone would say.

SPACE is the name of a backbone, for its usual space, or the configuration of a search, whose space and `latency:`
section are taken; options override the section.
"""
_EXAMPLES = """\
examples:
  dicenas latency build configs/quickstart.yaml --out laptop.json
  dicenas latency build mobilenetv2 --device cuda --batch 32 --out gpu.json
  dicenas latency show laptop.json --plot blocks.png
  dicenas latency check laptop.json --nets 30 --plot check.png --json check.json
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "latency", help="build, show or check a latency table", description=_DESCRIPTION, epilog=_EXAMPLES
    )
    actions = parser.add_subparsers(title="actions", dest="action", metavar="ACTION", required=True)

    build = actions.add_parser("build", help="measure the table of a space")
    build.add_argument("space", metavar="SPACE", help="backbone, or YAML file of a search")
    build.add_argument("--out", type=Path, required=True, metavar="TABLE.json", help="file to write")
    build.add_argument("--device", help="cpu, cuda or cuda:N (default: cpu)")
    build.add_argument("--batch", type=positive_int, help="images a forward pass (default: 1)")
    build.add_argument("--threads", type=positive_int, help="CPU threads (default: 1)")
    build.add_argument("--runtime", help="eager, kernels, fused, compiled or onnxruntime (default: kernels)")
    build.add_argument("--dtype", help="number type, such as float16 (default: float32)")
    build.add_argument("--input-size", type=positive_int, metavar="PIXELS", help="image size (default: 224)")
    build.add_argument(
        "--contexts", type=positive_int, default=6, help="networks that each block is measured in (default: 6)"
    )
    build.add_argument("--seed", type=non_negative_int, default=0, help="of the networks drawn (default: 0)")
    build.add_argument("--force", action="store_true", help="replace a table that is there")
    build.set_defaults(act=_build, after_interrupt="; the same command goes on from here")

    show = actions.add_parser("show", help="print the blocks of a table")
    show.add_argument("table", type=Path, metavar="TABLE.json")
    show.add_argument("--plot", type=Path, metavar="FILE", help="draw the blocks into this file, .png, .svg or .pdf")
    show.set_defaults(act=_show)

    check = actions.add_parser("check", help="compare predictions with fresh measurements")
    check.add_argument("table", type=Path, metavar="TABLE.json")
    check.add_argument("--nets", type=positive_int, default=30, help="networks to measure (default: 30)")
    check.add_argument("--seed", type=non_negative_int, default=1, help="of the networks drawn (default: 1)")
    check.add_argument("--plot", type=Path, metavar="FILE", help="scatter plot, .png, .svg, .pdf, or an .html page")
    check.add_argument("--json", type=Path, metavar="FILE", help="write all figures into this file")
    check.add_argument(
        "--allow-mismatch", action="store_true", help="go on with a table from another device or under other settings"
    )
    check.set_defaults(act=_check)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the action."""
    status: int = args.act(args)
    return status


def _build(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from dicenas.cost.build import BuildPlan, build_table
    from dicenas.cost.predict import fit_predictor

    if args.out.exists() and not args.force:
        raise FileExistsError(f"{args.out} exists; choose another file, or replace it with --force")
    space, settings, input_size = _what_to_measure(args)
    print(f"{space.backbone}, {space.size:,} architectures; {_under(settings, input_size)}")
    with tqdm(unit="measurement") as bar:

        def progress(done: int, tasks: int, what: str) -> None:
            bar.total = tasks
            bar.set_postfix_str(what)
            bar.update(done - bar.n)

        plan = BuildPlan(args.contexts, seed=args.seed)
        table = build_table(space, settings, args.out, input_size=input_size, plan=plan, progress=progress)
    predictor = fit_predictor(table)
    print(f"{args.out}: {len(table.blocks_ms())} blocks, {len(table.networks)} networks measured whole")
    for block, reason in table.infeasible.items():
        print(f"  not on this device, {reason}: {block}")
    deviation = predictor.cross_validation[predictor.form]
    if math.isfinite(deviation):
        print(f"Networks held out of the fit are predicted to {deviation:.1%} (standard deviation).")
    else:
        print("Too few networks were measured to hold some out of the fit; --contexts 4 measures more.")
    print(f"Use it: `table: {args.out}` in the latency section of a search")
    print(f"See how good it is: dicenas latency check {args.out}")
    return 0


def _what_to_measure(args: argparse.Namespace) -> tuple[SpaceSpec, LatencySettings, int | None]:
    """Return the space, the settings and the image size that the arguments and the configuration name."""
    from dicenas.config import LatencyConfig
    from dicenas.cost import LatencySettings
    from dicenas.nets import list_backbones
    from dicenas.space import SpaceSpec
    from dicenas.spelling import did_you_mean

    latency = LatencyConfig()
    if args.space in list_backbones():
        space = SpaceSpec(args.space)
    elif Path(args.space).is_file():
        from dicenas.config import load_config

        config = load_config(args.space)
        latency = config.latency
        space = config.space_spec()
    else:
        known = list_backbones()
        raise ValueError(
            f"{args.space!r} is neither a file nor a backbone{did_you_mean(args.space, known)} ({', '.join(known)})"
        )
    settings = LatencySettings(
        device=args.device or latency.device,
        batch=args.batch or latency.batch,
        dtype=args.dtype or latency.dtype,
        threads=args.threads or latency.threads,
        runtime=args.runtime or latency.runtime,
    )
    return space, settings, args.input_size or latency.input_size


def _show(args: argparse.Namespace) -> int:
    from dicenas.cost.table import LatencyTable
    from dicenas.report import print_table
    from dicenas.report.figures import check_plot_path
    from dicenas.report.latency_plots import plot_table

    if args.plot is not None:
        check_plot_path(args.plot)
    table = LatencyTable.load(args.table)
    rows = [
        [
            block.kind,
            block.op or "–",
            f"{block.in_channels}→{block.out_channels}",
            f"{block.size[0]}×{block.size[1]}",
            str(block.stride),
            f"{time_ms:.3f}",
        ]
        for block, time_ms in table.blocks_ms().items()
    ]
    print_table(["block", "op", "channels", "size", "stride", "ms"], rows, align="llrrrr", title=str(args.table))
    print(f"\n{_measured_on(table)}")
    if args.plot is not None:
        plot_table(table, args.plot)
        print(f"drawn into {args.plot}")
    return 0


def _check(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from dicenas.cost import LatencySettings
    from dicenas.cost.check import check_table
    from dicenas.cost.table import LatencyTable, fingerprint_of
    from dicenas.files import atomic_write_text
    from dicenas.report.figures import check_plot_path
    from dicenas.report.latency_plots import CHECK_SUFFIXES, plot_check

    if args.plot is not None:
        check_plot_path(args.plot, CHECK_SUFFIXES)
    if args.json is not None and not args.json.parent.is_dir():
        raise FileNotFoundError(f"{args.json}: the folder {args.json.parent} does not exist")
    if args.nets < 2:
        raise ValueError("--nets: two networks are the least that can be compared")
    table = LatencyTable.load(args.table)
    there = table.fingerprint
    settings = LatencySettings(
        there.device, there.batch, there.dtype, there.threads, there.runtime, there.memory_format
    )
    wanted = fingerprint_of(table.space, settings, there.input_size)
    for difference in table.check(wanted, allow_mismatch=args.allow_mismatch):
        print(f"mind: {difference}")
    with tqdm(total=args.nets, unit="network") as bar:

        def progress(done: int, tasks: int) -> None:
            bar.update(done - bar.n)

        check = check_table(table, settings, networks=args.nets, seed=args.seed, progress=progress)
    _print_check(check)
    print(f"\n{_measured_on(table)}")
    if args.json is not None:
        data = {"fingerprint": table.to_dict()["fingerprint"], **check.to_dict()}
        atomic_write_text(args.json, json.dumps(data, indent=1) + "\n")
    if args.plot is not None:
        plot_check(check, _measured_on(table), args.plot)
        print(f"drawn into {args.plot}")
    return 0


def _print_check(check: TableCheck) -> None:
    from dicenas.report import print_table
    from dicenas.report.latency_plots import METHOD_LABELS

    rows = []
    for name, label in METHOD_LABELS.items():
        found = check.methods[name]
        rows.append(
            [
                label,
                f"{found.within_10_percent:.1%}",
                f"{found.within_5_percent:.1%}",
                f"{found.kendall_tau:.3f}",
                f"{found.spearman_rho:.3f}",
                f"{found.median_error:.1%}",
                f"{found.largest_error:.1%}",
            ]
        )
    columns = ["prediction", "within 10 %", "within 5 %", "Kendall τ", "Spearman ρ", "median error", "largest"]
    print_table(columns, rows, align="lrrrrrr", title=f"{len(check.networks)} unseen networks")
    print(
        f"\nThe reference network ran {check.drift:+.1%} against when the table was measured; measurements are scaled "
        "by what it took beside each network."
    )
    for suspect in check.suspects[:10]:
        block = suspect.block
        name = (
            f"{block.kind} {block.op or ''} {block.in_channels}→{block.out_channels}, {block.size[0]}×{block.size[1]}"
        )
        print(f"suspect: {name}: {suspect.table_ms:.3g} ms in the table, {suspect.measured_ms:.3g} ms now")


def _under(settings: LatencySettings, input_size: int | None) -> str:
    size = "own image sizes" if input_size is None else f"{input_size}×{input_size}"
    return (
        f"{settings.device}, runtime {settings.runtime}, batch {settings.batch}, {settings.dtype}, "
        f"threads {settings.threads or 'as set'}, {size}"
    )


def _measured_on(table: LatencyTable) -> str:
    found = table.fingerprint
    size = "own image sizes" if found.input_size is None else f"{found.input_size}×{found.input_size}"
    kernels = "" if found.native_kernels else " (no native kernels loaded)"
    return (
        f"{found.device_name}, {found.device}, runtime {found.runtime}{kernels}, batch {found.batch}, {found.dtype}, "
        f"threads {found.threads}, {size}, torch {found.torch_version}, measured {table.measured_at}"
    )

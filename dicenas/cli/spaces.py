"""``dicenas spaces``: the backbones that can be searched, and the space of a configuration."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dicenas.cli.arguments import Subparsers

if TYPE_CHECKING:
    from dicenas.config import SearchConfig
    from dicenas.space import SpaceSpec

__all__ = ["add_parser", "run"]

_SAMPLES = 500

_DESCRIPTION = """\
List the backbones with what a space over them searches by default; or show the space of a configuration: its
choices, its size, what its networks cost, and how many of them keep the constraints.
"""
_EXAMPLES = """\
examples:
  dicenas spaces
  dicenas spaces configs/quickstart.yaml
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "spaces",
        help="list backbones, or show the space of a configuration",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
    )
    parser.add_argument("config", metavar="CONFIG", nargs="?", help="YAML file of a search")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the backbones, or the space of a configuration."""
    if args.config is None:
        _print_backbones()
    else:
        from dicenas.config import load_config

        _print_space(load_config(args.config))
    return 0


def _print_backbones() -> None:
    from dicenas.nets import get_backbone, list_backbones
    from dicenas.report import print_table
    from dicenas.space import SpaceSpec

    rows = []
    for name in list_backbones():
        family = get_backbone(name)
        widths = ", ".join(f"{width:g}" for width in family.widths)
        depths = " ".join("/".join(map(str, depths)) for depths in family.depths)
        ops = ", ".join(family.ops)
        rows.append([name, widths, depths, ops, f"{SpaceSpec(name).size:.1e}", family.summary])
    print_table(["backbone", "widths", "depths", "ops", "architectures", "summary"], rows, align="llllrl")
    print("\nWidths, depths, ops and size by default (`dicenas ops` lists all ops).")


def _print_space(config: SearchConfig) -> None:
    from dicenas.report import print_table

    space = config.space_spec()
    rows = []
    for choice in space.choices:
        condition = ""
        if choice.condition is not None:
            label, values = choice.condition
            condition = f"{label} = {' or '.join(map(str, values))}"
        rows.append([choice.label, ", ".join(map(str, choice.values)), condition])
    print_table(["choice", "values", "where"], rows, align="lll", title=f"The space of {config.name}")
    print(f"\n{space.size:,} architectures over {space.backbone}")

    _print_costs(space, config.constraints, config.latency.input_size)


def _print_costs(space: SpaceSpec, constraints: Mapping[str, float], size: int | None) -> None:
    from random import Random

    from dicenas.report import print_table
    from dicenas.report.metrics import get_metric

    rng = Random(0)
    architectures = [space.random(rng) for _ in range(_SAMPLES)]
    costs = [space.cost(a.at_size(size)) for a in architectures]
    macs, params = sorted(cost.macs for cost in costs), sorted(cost.params for cost in costs)
    rows = []
    for name, smallest, values in (
        ("macs", space.minimum("macs", size), macs),
        ("params", space.minimum("params", size), params),
    ):
        metric = get_metric(name)
        quantiles = [values[round(q * (_SAMPLES - 1))] for q in (0, 0.25, 0.5, 0.75, 1)]
        kept = ""
        if name in constraints:
            share = sum(value <= constraints[name] for value in values) / _SAMPLES
            kept = f"{share:.0%} keep ≤ {metric.format(constraints[name])}"
        rows.append([metric.title, *map(metric.format, (smallest, *quantiles)), kept])
    at = "at each network's own size" if size is None else f"at {size}×{size} pixels"
    columns = ["cost", "least of all", "least", "quarter", "median", "three quarters", "most", "constraint"]
    title = f"\nCosts {at}: the space's least, and {_SAMPLES} random networks"
    print_table(columns, rows, align="lrrrrrrr", title=title)

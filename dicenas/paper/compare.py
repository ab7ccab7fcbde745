"""The paper's figures beside ours: what the tables on the command line and in docs/paper.md show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dicenas.cost import LayerKind, cost_by_kind, layer_costs
from dicenas.nets import architecture_cost, build, dicenet_architecture, get_backbone, list_nets, net_architecture
from dicenas.paper.published import FIGURE_2, TABLE_4, TABLE_8, PublishedShares
from dicenas.paper.rows import load_rows

__all__ = ["TOLERANCE", "Table", "compare_figure_2", "compare_table", "compared_tables"]

#: Rows whose multiply-adds are off by more than this share of the paper's are marked.
TOLERANCE = 0.05

_MARKED = f"* off by more than {TOLERANCE:.0%}; docs/paper.md says why."
_UNITS = "FLOPs are multiply-adds, in millions. Top-1: ImageNet accuracy in percent, the paper's, not measured here."


@dataclass(frozen=True)
class Table:
    """A table for readers.

    Attributes:
        title: Line above it.
        columns: Headings.
        align: ``l`` or ``r`` for each column.
        rows: Texts, one for each column.
        notes: Lines below it.
    """

    title: str
    columns: Sequence[str]
    align: str
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]


def compared_tables() -> dict[int, str]:
    """Return the tables of the paper that can be compared, by number, with a line on each."""
    return {
        1: "DiCE units against separable convolutions in three networks",
        2: "DimConv and DimFuse replaced one at a time",
        3: "DimFuse in place of all point-wise convolutions",
        4: "FLOPs and accuracy of efficient networks",
        8: "DiCENet's channels and FLOPs by scale",
    }


def compare_table(number: int) -> list[Table]:
    """Return a table of the paper with our figures beside the paper's.

    Raises:
        ValueError: The table cannot be compared.
    """
    if number not in compared_tables():
        raise ValueError(f"table {number} cannot be compared; expected one of {', '.join(map(str, compared_tables()))}")
    if number == 4:
        return [_table_4()]
    if number == 8:
        return [_table_8()]
    parts = ("2a", "2b") if number == 2 else (str(number),)
    return [_rows_of(part, compared_tables()[number]) for part in parts]


def _rows_of(table: str, title: str) -> Table:
    rows = []
    for row in load_rows(table):
        architecture = row.architecture
        size = architecture.image_size[0]
        macs_millions = architecture_cost(architecture).macs / 1e6
        rows.append(
            [
                row.row,
                row.column,
                f"{architecture.backbone} {architecture.width:g}" + (f" at {size}" if size != 224 else ""),
                row.op,
                f"{row.paper_macs_millions:g}",
                f"{macs_millions:.1f}",
                difference(macs_millions, row.paper_macs_millions),
                f"{row.paper_top1_percent:.2f}",
            ]
        )
    columns = ["row", "in", "network and width", "op", "paper's FLOPs", "ours", "difference", "paper's top-1"]
    return Table(f"Table {table}: {title}", columns, "llllrrrr", rows, [_UNITS, _MARKED])


def _table_4() -> Table:
    known = set(list_nets())
    rows = []
    for point in TABLE_4:
        ours = ["–", "–", "–"]
        if point.net in known:
            macs_millions = architecture_cost(net_architecture(point.net, image_size=point.image_size)).macs / 1e6
            at = "" if point.image_size == 224 else f" at {point.image_size}"
            ours = [f"{point.net}{at}", f"{macs_millions:.1f}", difference(macs_millions, point.macs_millions)]
        rows.append([point.family, f"{point.top1_percent:.1f}", f"{point.macs_millions:g}", *ours])
    columns = ["paper's network", "paper's top-1", "paper's FLOPs", "ours", "FLOPs", "difference"]
    notes = [_UNITS, "–: dicenas does not have this network.", _MARKED]
    return Table(f"Table 4: {compared_tables()[4]}", columns, "lrrlrr", rows, notes)


def _table_8() -> Table:
    names = ("Conv1", "Block 1", "Block 2", "Block 3", "Grouped FC")
    rows = []
    for column in TABLE_8:
        architecture = dicenet_architecture(column.scale)
        layout = get_backbone(architecture.backbone).layout(architecture)
        stages = [stage[-1].out_channels for stage in layout.stages]
        ours = (layout.stem.out_channels, *stages, layout.head.hidden_channels)
        macs_millions = architecture_cost(architecture).macs / 1e6
        theirs = column.macs_millions
        rows.append(
            [
                f"{column.scale:g}",
                *(f"{b}" if a == b else f"{a:g} → {b}" for a, b in zip(column.channels, ours, strict=True)),
                "–" if theirs is None else f"{theirs:g}",
                f"{macs_millions:.1f}",
                "–" if theirs is None else difference(macs_millions, theirs),
            ]
        )
    notes = [
        "Channels: the paper's → ours, which are the published code's, where they differ.",
        "FLOPs are multiply-adds, in millions; between 0.5 and 2.0 the paper gives those of the ends alone.",
        _MARKED,
    ]
    columns = ["scale", *names, "paper's FLOPs", "ours", "difference"]
    return Table(f"Table 8: {compared_tables()[8]}", columns, "r" * len(columns), rows, notes)


def compare_figure_2() -> tuple[Table, list[tuple[PublishedShares, dict[LayerKind, float]]]]:
    """Return Figure 2, the shares of multiply-adds by kind of layer, as a table, and our shares in percent."""
    pies = []
    rows = []
    for pie in FIGURE_2:
        architecture = net_architecture(pie.net)
        with torch.device("meta"):
            kinds = cost_by_kind(layer_costs(build(architecture), (3, *architecture.image_size)))
        total = sum(cost.macs for cost in kinds.values())
        ours: dict[LayerKind, float] = {kind: 100 * cost.macs / total for kind, cost in kinds.items() if cost.macs}
        pies.append((pie, ours))
        rows.append([pie.network, "the paper's", *(f"{share:g}" for share in pie.shares_percent.values()), "–"])
        rows.append(["", pie.net, *(f"{share:.1f}" for share in ours.values())])
    columns = ["network", "", "standard 3×3", "point-wise 1×1", "efficient", "linear"]
    notes = [
        "Percent of the FLOPs (multiply-adds). Efficient: depth-wise, dimension-wise and grouped convolutions.",
        "Linear layers, the gates' among them, are not told apart in the paper.",
    ]
    table = Table("Figure 2: FLOPs by kind of layer in networks of similar accuracy", columns, "llrrrr", rows, notes)
    return table, pies


def difference(ours: float, theirs: float) -> str:
    """Write a difference in percent of the paper's figure, marked where it is above the tolerance."""
    share = ours / theirs - 1
    return f"{share:+.1%}" + (" *" if abs(share) > TOLERANCE else "  ")

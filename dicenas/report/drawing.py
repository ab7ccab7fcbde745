"""An architecture as a drawing: stem, stages of blocks coloured by op, head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

from dicenas.architecture import Architecture
from dicenas.nets import BlockSpec, get_backbone, list_backbones
from dicenas.ops import list_ops
from dicenas.report.markup import Element, element
from dicenas.report.metrics import get_metric
from dicenas.report.palette import NEUTRAL, NameParts, op_colors, split_candidate, split_name

__all__ = ["architecture_svg", "draw_architecture", "draw_ops", "frame"]

_BLOCK_WIDTH, _BLOCK_HEIGHT, _GAP, _STAGE_GAP = 66, 82, 5, 22
_TOP, _BAR_TOP, _BAR_HEIGHT = 36, 8, 30
_ROW_WIDTH = 1072  # a longer network goes on in a second row


def draw_architecture(architecture: Architecture, colors: Mapping[str, str] | None = None) -> Element:
    """Draw a network as an SVG element: each block with op, kernel size, stride, channels and its share of the MACs.

    The drawing takes the colour of its text from where it stands, so that it serves light and dark pages.

    Args:
        architecture: What to draw, at its native size. Where its backbone is not registered, only its ops are drawn.
        colors: Colour of each op; by default those of all reports.
    """
    ops = [op for stage in architecture.stages for op in stage]
    colors = op_colors(ops) if colors is None else colors
    if architecture.backbone not in list_backbones():
        return draw_ops(architecture, colors)
    family = get_backbone(architecture.backbone)
    layout = family.layout(architecture)
    costs: dict[int, int] = {}
    if {split_candidate(op)[0] for op in ops} <= set(list_ops()):
        costs = {i: family.block_cost(block).macs for i, block in enumerate(layout.blocks)}

    groups: list[tuple[str, Sequence[BlockSpec]]] = [("image", (layout.stem,))]
    groups += [(f"stage {i}", stage) for i, stage in enumerate(layout.stages, 1) if stage]
    groups.append(("classes", (layout.head,)))

    row_height = _TOP + _BLOCK_HEIGHT + (_BAR_TOP + _BAR_HEIGHT + 20 if costs else 10)
    rows = [element("g")]
    x, number, width = 0.0, 0, 0.0
    for label, blocks in groups:
        group_width = len(blocks) * (_BLOCK_WIDTH + _GAP) - _GAP
        if x and x + group_width > _ROW_WIDTH:
            x = 0
            rows.append(element("g", transform=f"translate(0 {len(rows) * row_height})"))
        elif x:
            rows[-1].append(_arrow(x - _STAGE_GAP))
        rows[-1].append(element("text", label, x=x, y=12, font_size=11, fill_opacity=0.7))
        rows[-1].append(element("text", _group_size(blocks), x=x, y=26, font_size=11, fill_opacity=0.7))
        for position, block in enumerate(blocks):
            left = x + position * (_BLOCK_WIDTH + _GAP)
            rows[-1].append(_block(block, left, colors, costs.get(number), sum(costs.values())))
            if costs:
                rows[-1].append(_bar(left, costs[number], costs))
            number += 1
        width = max(width, x + group_width)
        x += group_width + _STAGE_GAP
    height = len(rows) * row_height - 4
    return element(
        "svg",
        *rows,
        viewBox=f"-1 0 {width + 2:g} {height}",
        width=width + 2,
        height=height,
        role="img",
        aria_label=_description(architecture),
        class_="architecture",
        fill="currentColor",
        font_family="inherit",
    )


def architecture_svg(architecture: Architecture) -> str:
    """Return the text of an SVG file with the drawing of a network, dark on white."""
    drawing = draw_architecture(architecture)
    drawing.set("xmlns", "http://www.w3.org/2000/svg")
    drawing.set("style", "color: #1f2328; background: #ffffff; font-family: sans-serif")
    return ElementTree.tostring(drawing, encoding="unicode") + "\n"


def draw_ops(architecture: Architecture, colors: Mapping[str, str]) -> Element:
    """Draw only the ops of a network as an SVG element, small enough for a table."""
    side, gap, x = 20, 3, 0.5
    drawing = element("g", font_size=11, text_anchor="middle")
    for stage in architecture.stages:
        for candidate in stage:
            op, kernel_size = split_candidate(candidate)
            square = element("g", element("title", candidate), *frame(x, 0.5, side, side, op, colors.get(op, NEUTRAL)))
            if kernel_size is not None:
                square.append(element("text", str(kernel_size), x=x + side / 2, y=15))
            drawing.append(square)
            x += side + gap
        x += 2 * gap
    width = max(1, x - 3 * gap + 0.5)
    return element(
        "svg",
        drawing,
        viewBox=f"0 0 {width:g} {side + 1}",
        width=width,
        height=side + 1,
        role="img",
        aria_label=_description(architecture),
        fill="currentColor",
        font_family="inherit",
    )


def _arrow(x: float) -> Element:
    middle = _TOP + _BLOCK_HEIGHT / 2
    path = f"M{x + 3:g} {middle:g}h{_STAGE_GAP - 6}m-4 -4l4 4l-4 4"
    return element("path", d=path, fill="none", stroke="currentColor", stroke_opacity=0.4)


def _group_size(blocks: Sequence[BlockSpec]) -> str:
    """What flows there: the image into the stem, maps through a stage, classes out of the head."""
    first, last = blocks[0], blocks[-1]
    if last.kind == "head":
        return str(last.out_channels)
    return _size(last.size if first.op else first.in_size)


def _block(block: BlockSpec, x: float, colors: Mapping[str, str], macs: int | None, total: int) -> Element:
    op, kernel_size, expansion, _ = split_name(block.op) if block.op else NameParts(block.kind)
    middle = x + _BLOCK_WIDTH / 2
    name = op.split("_", 1)
    texts = [element("text", part, x=middle, y=_TOP + 22 + 13 * i, font_size=11) for i, part in enumerate(name)]
    kernel = "" if kernel_size is None else f"{kernel_size}×{kernel_size}"
    if expansion is not None:
        texts.append(element("text", f"{kernel} e{expansion}".strip(), x=middle, y=_TOP + 56, font_size=11))
    elif kernel:
        texts.append(element("text", kernel, x=middle, y=_TOP + 56, font_size=13, font_weight=600))
    reduction = max(1, round(block.in_size[0] / block.size[0]))
    channels = block.hidden_channels if block.kind == "head" else block.out_channels
    below = (f"↓{reduction} · " if reduction > 1 else "") + str(channels)
    texts.append(element("text", below, x=middle, y=_TOP + 74, font_size=11, fill_opacity=0.75))
    return element(
        "g",
        element("title", _tooltip(block, macs, total)),
        *frame(x, _TOP, _BLOCK_WIDTH, _BLOCK_HEIGHT, block.op, colors.get(op, NEUTRAL)),
        *texts,
        text_anchor="middle",
    )


def frame(x: float, y: float, width: float, height: float, op: str | None, color: str) -> list[Element]:
    """Draw the frame of a block in the colour of its op; ``skip`` is an empty one."""
    box = {"x": x, "y": y, "width": width, "height": height, "rx": 4}
    if op == "skip":
        return [element("rect", **box, fill="none", stroke=color, stroke_dasharray="3 3")]
    band = {**box, "height": max(3.0, height / 16), "rx": 1.5}
    return [element("rect", **box, fill=color, fill_opacity=0.2), element("rect", **band, fill=color)]


def _bar(x: float, macs: int, costs: Mapping[int, int]) -> Element:
    """The block's MACs as a bar that hangs from it; the costliest block has the longest."""
    height = _BAR_HEIGHT * macs / max(costs.values())
    top = _TOP + _BLOCK_HEIGHT + _BAR_TOP
    share = 100 * macs / sum(costs.values())
    return element(
        "g",
        element("rect", x=x + 16, y=top, width=_BLOCK_WIDTH - 32, height=max(height, 0.5), fill_opacity=0.3),
        element(
            "text",
            f"{share:.0f}%" if share >= 1 or not macs else "<1%",
            x=x + _BLOCK_WIDTH / 2,
            y=top + height + 12,
            font_size=10,
            fill_opacity=0.7,
            text_anchor="middle",
        ),
    )


def _tooltip(block: BlockSpec, macs: int | None, total: int) -> str:
    what = f"{block.op} in {block.kind}" if block.op else block.kind
    lines = [what, f"channels {block.in_channels} → {block.out_channels}"]
    if block.hidden_channels:
        lines.append(f"channels inside {block.hidden_channels}")
    lines.append(f"size {_size(block.in_size)} → {_size(block.size)}")
    if macs is not None:
        lines.append(f"{get_metric('macs').format(macs, unit=True)} MACs, {macs / total:.1%} of the network")
    return "\n".join(lines)


def _description(architecture: Architecture) -> str:
    stages = "; ".join(f"stage {i}: {', '.join(stage)}" for i, stage in enumerate(architecture.stages, 1))
    return f"{architecture.backbone}, width {architecture.width:g}, {_size(architecture.image_size)}; {stages}"


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"

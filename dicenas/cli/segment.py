"""``dicenas segment``: paints what a segmentation network sees in a photo over it."""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import TYPE_CHECKING

from dicenas.cli.arguments import Subparsers

if TYPE_CHECKING:
    from dicenas.evaluation.segmentation import ClassMap, LabelSet

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Show a photo to a published segmentation network of DiCENet, print the classes that it sees, and paint them over the
photo, with a legend below. Weights of 21 classes are taken for PASCAL VOC's and weights of 20 for Cityscapes'.
"""
_EXAMPLES = """\
examples:
  dicenas segment dicenet_s_1.0_pascal_384x384.pth cats.jpg --out cats.png
  dicenas segment dicenet_s_0.5_city_512x256.pth street.jpg --out street.png --size 256x768
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "segment", help="paint what a network sees in a photo", description=_DESCRIPTION, epilog=_EXAMPLES
    )
    parser.add_argument("weights", type=Path, metavar="WEIGHTS", help="checkpoint of EdgeNets (.pth or .safetensors)")
    parser.add_argument("image", type=Path, metavar="IMAGE", help="photo, in any format that Pillow reads")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.png", help="picture to write")
    parser.add_argument(
        "--size",
        type=_size,
        metavar="PIXELS",
        help="size at which the network sees the photo, 384 or HEIGHTxWIDTH (default: 384; for Cityscapes 256x512)",
    )
    parser.add_argument("--alpha", type=_alpha, default=0.6, help="opacity of the colours, 0 to 1 (default: 0.6)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default: cpu)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the picture and print the table of classes."""
    from dicenas.cost import resolve_device
    from dicenas.evaluation.segmentation import label_set, read_photo, segment_photo
    from dicenas.files import atomic_write_bytes
    from dicenas.nets import edgenets
    from dicenas.report.overlay import draw_segmentation

    if args.out.suffix.lower() != ".png":
        raise ValueError(f"--out {args.out} does not end in .png")
    if not args.out.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {args.out.parent} to write {args.out.name} to")
    if args.out.is_dir():
        raise IsADirectoryError(f"--out {args.out} is a folder")
    if args.out.exists() and args.image.exists() and args.out.samefile(args.image):
        raise ValueError(f"--out {args.out} is the photo itself; choose another name")
    device = resolve_device(args.device)
    photo = read_photo(args.image)
    network = edgenets.read_segmentation(args.weights)
    labels = label_set(network.num_classes)
    size = args.size or labels.size
    classes = segment_photo(network, photo, size, device)
    seen = f"seen at {size[0]} x {size[1]}"
    caption = f"DiCENet at scale {network.scale:g}, {labels.name}, {seen}"
    picture = draw_segmentation(photo, classes, labels, args.alpha, caption)
    png = io.BytesIO()
    picture.save(png, "PNG")
    atomic_write_bytes(args.out, png.getvalue())
    _print_classes(classes, labels, f"{args.image.name}: {labels.name}, {seen} pixels")
    print(f"\npicture: {args.out}")
    return 0


def _print_classes(classes: ClassMap, labels: LabelSet, title: str) -> None:
    from dicenas.report import print_table
    from dicenas.report.overlay import format_share

    pixels = classes.pixels()
    total = sum(pixels.values())
    rows = [
        [labels.classes[index], f"#{bytes(labels.colors[index]).hex()}", f"{count:,}", format_share(count, total)]
        for index, count in pixels.items()
    ]
    print_table(["class", "colour", "pixels", "share"], rows, align="llrr", title=title)


def _size(text: str) -> tuple[int, int]:
    """Read ``384`` or ``256x512``."""
    sides = [int(side) if side.isdecimal() else 0 for side in text.lower().split("x")]
    if len(sides) > 2 or min(sides) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of pixels nor HEIGHTxWIDTH")
    return sides[0], sides[-1]


def _alpha(text: str) -> float:
    """Read an opacity."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number in 0 to 1")
    return value

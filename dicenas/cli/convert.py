"""``dicenas convert``: what an op would make of a network of torchvision or timm."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dicenas.cli.arguments import Subparsers, positive_int

if TYPE_CHECKING:
    from torch import nn

    from dicenas.convert import ConversionReport
    from dicenas.cost import LatencyResult

__all__ = ["add_parser", "run"]

_ROUNDS = 15

_DESCRIPTION = """\
Put a candidate op in place of the separable convolutions of a published network and show what comes of it: what was
replaced, what was left and why, and FLOPs (MACs), parameters and latency on this machine before and after.

The new ops have fresh weights, and so has the whole network: nothing is downloaded. To train the converted network,
call dicenas.convert(model, ...) on your own model in Python. --save writes it as a program of torch.export, to be
measured on another device; it runs with torch alone, with any batch size.
"""
_EXAMPLES = """\
examples:
  dicenas convert torchvision:mobilenet_v2
  dicenas convert timm:efficientnet_b0 --op separable_se --image-size 160
  dicenas convert torchvision:mobilenet_v2 --where 'features.1?.*' --no-latency
  dicenas convert timm:convnext_atto --op dice_k5 --save convnext_dice.pt2
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "convert", help="put an op into a published network", description=_DESCRIPTION, epilog=_EXAMPLES
    )
    parser.add_argument("network", metavar="NETWORK", help="torchvision:NAME or timm:NAME")
    parser.add_argument("--op", default="dice", help="op or candidate to put in, see dicenas ops (default: dice)")
    parser.add_argument(
        "--where", nargs="+", metavar="PATTERN", help="which depth-wise convolutions, by name (default: all)"
    )
    parser.add_argument(
        "--image-size", type=positive_int, metavar="PIXELS", help="size of the images (default: the network's own)"
    )
    parser.add_argument("--no-latency", action="store_true", help="measure nothing")
    parser.add_argument("--device", default="cpu", help="where to measure: cpu, cuda or cuda:N (default: cpu)")
    parser.add_argument("--threads", type=positive_int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--batch", type=positive_int, default=1, help="images a forward pass (default: 1)")
    parser.add_argument("--save", type=Path, metavar="FILE.pt2", help="write the converted network to this file")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Convert a network and print what came of it."""
    import copy

    from dicenas.convert import ConversionError, convert
    from dicenas.cost import LatencySettings, measure_interleaved

    if args.save is not None:
        _check_path(args.save)
    settings = LatencySettings(args.device, args.batch, "float32", args.threads)
    original, own_size = _published_network(args.network)
    size = args.image_size or own_size
    model = copy.deepcopy(original)
    try:
        report = convert(model, size, args.op, args.where)
    except ConversionError as error:
        raise ValueError(f"{args.network}: {error}") from error
    latency: dict[str, LatencyResult] = {}
    if report.replaced and not args.no_latency:
        networks = {"before": original, "after": model}
        latency = measure_interleaved(networks, (3, size, size), settings, rounds=_ROUNDS)
    _print_report(args.network, size, report, latency)
    if args.save is not None:
        _save(model, size, args.save)
        print(f"\nprogram: {args.save}")
    return 0


def _check_path(path: Path) -> None:
    if path.suffix != ".pt2":
        raise ValueError(f"--save {path} does not end in .pt2")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to write {path.name} to")
    if path.is_dir():
        raise IsADirectoryError(f"--save {path} is a folder")


def _published_network(source: str) -> tuple[nn.Module, int]:
    """Build a network of torchvision or timm with fresh weights, in evaluation mode, and say what image size it has."""
    from dicenas.spelling import did_you_mean

    library, _, name = source.partition(":")
    if library == "torchvision":
        import torchvision

        known = torchvision.models.list_models(module=torchvision.models)
    elif library == "timm":
        import timm

        known = timm.list_models()
    else:
        raise ValueError(f"NETWORK {source!r} should be torchvision:NAME or timm:NAME")
    if name not in known:
        raise ValueError(f"{library} has no network {name!r}{did_you_mean(name, known)}")
    if library == "torchvision":
        size = 299 if name == "inception_v3" else 224
        return torchvision.models.get_model(name, weights=None).eval(), size
    model: Any = timm.create_model(name, pretrained=False).eval()
    return model, model.default_cfg["input_size"][-1]


def _print_report(network: str, size: int, report: ConversionReport, latency: dict[str, LatencyResult]) -> None:
    from dicenas.report import print_table

    print(report.summary())
    print()
    columns, rows = ["", "FLOPs (MACs)", "params"], []
    for when, cost in (("before", report.before), ("after", report.after)):
        row = [when, f"{cost.macs:,}", f"{cost.params:,}"]
        rows.append([*row, f"{latency[when].latency_ms:.3g}"] if latency else row)
    if latency:
        columns.append("latency ms")
    print_table(columns, rows, align="l" + "r" * (len(columns) - 1), title=f"{network}, images of {size}×{size}")
    if latency:
        result = latency["after"]
        print(
            f"\nLatency: medians of {result.repeats} rounds in turns; batch {result.batch}, runtime {result.runtime}, "
            f"threads {result.threads}\n  {result.device}: {result.device_name}, torch {result.torch_version}"
        )


def _save(model: nn.Module, size: int, path: Path) -> None:
    import io

    import torch

    from dicenas.files import atomic_write_bytes

    image = torch.zeros(2, 3, size, size)
    program = torch.export.export(model.eval(), (image,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    data = io.BytesIO()
    torch.export.save(program, data)
    atomic_write_bytes(path, data.getvalue())

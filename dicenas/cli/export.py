"""``dicenas export``: takes a network away as plain PyTorch."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from dicenas.cli.arguments import Subparsers, trial

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Write a network as files that need neither dicenas nor NNI: model.py, readable source whose build() needs torch
alone, and model.safetensors with the weights. They are loaded in a fresh process and compared with the network
before the folder appears.

SOURCE is a run folder, an architecture file, or the name of a network. A trial of a run has its trained weights;
the others get fresh ones, or those of a checkpoint: EdgeNets' of DiCENet and of its ShuffleNetV2, torchvision's of the
networks that it has. The number of classes is then the checkpoint's.
"""
_EXAMPLES = """\
examples:
  dicenas export runs/quickstart --out mynet                 the best trial
  dicenas export runs/quickstart --trial 7 --out net7
  dicenas export dicenet_100 --formats py --out dicenet
  dicenas export dicenet_100 --weights dicenet_s_1.0_imagenet_224x224.pth --out dicenet
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "export", help="take a network away as plain PyTorch", description=_DESCRIPTION, epilog=_EXAMPLES
    )
    parser.add_argument("source", metavar="SOURCE", help="run folder, architecture file, or name of a network")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--formats", default="py,safetensors", help="separated by commas (default: py,safetensors)")
    parser.add_argument("--trial", type=trial, help="'best' or the number of a trial of the run (default: best)")
    parser.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="checkpoint of the network, EdgeNets' or torchvision's (.pth or .safetensors)",
    )
    parser.add_argument("--force", action="store_true", help="replace an exported network in DIR")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export a network and print what was written and how it was checked."""
    from dicenas.cli.source import read_source
    from dicenas.evaluation.data import IMAGENET_MEAN, IMAGENET_STD
    from dicenas.export import export_network
    from dicenas.nets import build
    from dicenas.nets.checkpoints import read_network

    source = read_source(args.source, args.trial)
    facts: dict[str, Any] = {}
    if source.summary is not None and source.trial is not None:
        if args.weights is not None:
            raise ValueError(f"--weights is for networks without trained weights, and {source.name} has its own")
        network = source.summary.run.load_network(source.trial.number)
        facts = {"metrics": source.trial.metrics, **_data_facts(source.summary.config)}
    elif args.weights is not None:
        network = read_network(args.weights, source.architecture)
        facts = {"normalization": (IMAGENET_MEAN, IMAGENET_STD)}
    else:
        network = build(source.architecture)
        print(f"{source.name} has no trained weights: fresh ones are exported", file=sys.stderr)
    formats = [name.strip() for name in args.formats.split(",")]
    result = export_network(network, args.out, formats, force=args.force, **facts)
    print(f"exported {source.name} to {result.path}")
    for path in result.files:
        print(f"  {path.name:<20} {path.stat().st_size / 1024:>10,.1f} KiB")
    return 0


def _data_facts(config: Any) -> dict[str, Any]:
    """Return class names and normalisation of the images that a run trained on, where they are still there."""
    from dicenas.evaluation import DataConfig, check_data, load_data

    if "data" not in config:
        return {}
    data_config = DataConfig(**config["data"], seed=config["search"]["seed"])
    if problems := check_data(data_config):
        print(f"exported without class names and normalisation: {'; '.join(problems)}", file=sys.stderr)
        return {}
    data = load_data(data_config)
    return {"class_names": data.class_names, "normalization": (data.mean, data.std)}

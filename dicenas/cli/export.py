"""``dicenas export``: takes a network away as plain PyTorch."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dicenas.cli.arguments import Subparsers, positive_int, trial

if TYPE_CHECKING:
    from dicenas.export import Verification

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Write a network as files that need neither dicenas nor NNI, with a model card. Each is loaded in a fresh process and
compared with the network before the folder appears, and timed beside PyTorch.

  py           model.py, readable source whose build() needs torch alone
  safetensors  model.safetensors, the weights
  onnx         model.onnx, standard operators
  pt2          model.pt2, a program of torch.export
  torchscript  model.ts, traced; torch has declared TorchScript deprecated
  timm         timm/, a folder for timm.create_model

SOURCE is a run folder, an architecture file, an exported network, or the name of a network. A trial of a run has its
trained weights, and an exported network those of its model.safetensors; the others get fresh ones, or those of a
checkpoint: EdgeNets' of DiCENet and of its ShuffleNetV2, torchvision's of the
networks that it has. The number of classes is then the checkpoint's.
"""
_EXAMPLES = """\
examples:
  dicenas export runs/quickstart --out mynet                 the best trial
  dicenas export runs/quickstart --trial 7 --out net7 --formats py,safetensors,onnx
  dicenas export runs/quickstart --out deployed --formats onnx --fold-bn --image-size 224
  dicenas export mynet --formats onnx --out mynet_onnx      what was exported before, in another format
  dicenas export dicenet_100 --formats py --out dicenet
  dicenas export dicenet_100 --weights dicenet_s_1.0_imagenet_224x224.pth --out dicenet
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "export", help="take a network away as plain PyTorch", description=_DESCRIPTION, epilog=_EXAMPLES
    )
    parser.add_argument(
        "source", metavar="SOURCE", help="run folder, architecture file, exported network, or name of a network"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--formats", default="py,safetensors", help="separated by commas (default: py,safetensors)")
    parser.add_argument("--trial", type=trial, help="'best' or the number of a trial of the run (default: best)")
    parser.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="checkpoint of the network, EdgeNets' or torchvision's (.pth or .safetensors)",
    )
    parser.add_argument(
        "--fold-bn", action="store_true", help="fold normalisations into the convolutions in front of them"
    )
    parser.add_argument(
        "--dtype", default="float32", metavar="TYPE", help="float32, float16 or bfloat16 (default: float32)"
    )
    parser.add_argument(
        "--image-size",
        type=image_size,
        metavar="H[xW]",
        help="size for which programs of networks with DiCE units are written, and at which all formats are verified "
        "(default: the network's own)",
    )
    parser.add_argument("--force", action="store_true", help="replace an exported network in DIR")
    parser.set_defaults(run=run)


def image_size(text: str) -> tuple[int, int]:
    """Read ``224`` or ``160x224``, height first."""
    sides = [positive_int(side) for side in text.lower().split("x")]
    if len(sides) > 2:
        raise argparse.ArgumentTypeError(f"{text!r} is no image size, such as 224 or 160x224")
    return sides[0], sides[-1]


def run(args: argparse.Namespace) -> int:
    """Export a network and print what was written, how it was checked and how quick it is."""
    from dicenas.cli.source import read_source
    from dicenas.evaluation.data import IMAGENET_MEAN, IMAGENET_STD
    from dicenas.export import FORMATS, ExportVerificationError, check_formats, export_network, read_exported
    from dicenas.nets import build
    from dicenas.nets.checkpoints import read_network
    from dicenas.report import architecture_svg

    formats = [name.strip() for name in args.formats.split(",")]
    check_formats(formats, args.dtype)
    source = read_source(args.source, args.trial)
    facts: dict[str, Any] = {}
    if source.summary is not None and source.trial is not None:
        if args.weights is not None:
            raise ValueError(f"--weights is for networks without trained weights, and {source.name} has its own")
        if source.trial.state != "complete":
            raise ValueError(f"{source.name} is {source.trial.state} and has nothing to export: {source.trial.error}")
        run, number = source.summary.run, source.trial.number
        if not run.weights_path(number).is_file():
            raise FileNotFoundError(
                f"{source.name} has no weights of its own, as its evaluation left none: train it (dicenas train), "
                f"or export {run.trial_path(number) / 'architecture.json'} with fresh ones"
            )
        network = run.load_network(number)
        facts = {"metrics": source.trial.metrics, **_data_facts(source.summary.config)}
    elif args.weights is not None:
        network = read_network(args.weights, source.architecture)
        facts = {"normalization": (IMAGENET_MEAN, IMAGENET_STD)}
    elif (Path(args.source) / FORMATS["safetensors"]).is_file():
        exported = read_exported(args.source)
        network = exported.network
        facts = {
            "metrics": exported.metrics,
            "class_names": exported.class_names,
            "normalization": exported.normalization,
            "trained": exported.trained,
        }
    elif _is_trial(folder := Path(args.source).resolve()):
        raise ValueError(f"{args.source} is a trial of a run: export {folder.parents[1]} with --trial {folder.name}")
    else:
        network = build(source.architecture)
        facts = {"trained": False}
        print(f"{source.name} has no trained weights: fresh ones are exported", file=sys.stderr)
    print(f"writing {', '.join(formats)}, and verifying what was written", file=sys.stderr)
    try:
        result = export_network(
            network,
            args.out,
            formats,
            fold_bn=args.fold_bn,
            dtype=args.dtype,
            image_size=args.image_size,
            drawing=architecture_svg(network.architecture),
            force=args.force,
            **facts,
        )
    except ExportVerificationError as error:
        print(f"dicenas export: {error}\nnothing was written", file=sys.stderr)
        return 1
    print(f"exported {source.name} to {result.path}")
    for path in result.files:
        print(f"  {path.relative_to(result.path).as_posix():<24} {path.stat().st_size / 1024:>10,.1f} KiB")
    _print_verification(result.verification)
    return 0


def _is_trial(folder: Path) -> bool:
    """Whether it is the folder of a trial, which as an architecture would leave without its weights."""
    from dicenas.runs import RunFolder

    return folder.is_dir() and folder.parent.name == "trials" and RunFolder(folder.parents[1]).config_path.is_file()


def _print_verification(found: Verification) -> None:
    """Print the largest difference of each runtime, and its time beside PyTorch's."""
    height, width = found.image_size
    print("verified in a fresh process: differences relative to the largest logit,")
    print(f"medians of one image of {height} x {width} on one thread, the runtimes in turns")
    print(f"  {'runtime':<14} {'inputs':>6} {'difference':>10} {'latency_ms':>10} {'to torch':>9}")
    for runtime, latency_ms in found.latency_ms.items():
        checks = [check for check in found.checks if check.runtime == runtime]
        largest = max(check.relative_difference for check in checks)
        ratio = latency_ms / found.latency_ms["torch"]
        print(f"  {runtime:<14} {len(checks):>6} {largest:>10.1e} {latency_ms:>10.2f} {ratio:>8.2f}x")


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

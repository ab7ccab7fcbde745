"""``dicenas train``: trains a network for real, and exports it."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dicenas.cli.arguments import Subparsers, non_negative_int, positive_int, trial

if TYPE_CHECKING:
    from dicenas.architecture import Architecture
    from dicenas.training import Recipe

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Train a network from fresh weights, measure it, and export it. A training that was interrupted, or killed, goes on
where its last checkpoint was with the same command.

SOURCE is an architecture file, a run folder, or the name of a network. The number of classes is the dataset's. Recipes
are paper-e150 and paper-e300 (DiCENet's), cifar, and short; each of their settings can be given by a flag. DATA is
'digits', or a folder: CIFAR's Python archive, class folders, zip archives of them, or shards (.tar, .parquet).
"""
_EXAMPLES = """\
examples:
  dicenas train dicenet_010 --data digits --recipe short --out digits      a minute on a CPU
  dicenas train mobilenetv2_050 --data cifar10 --recipe cifar --out cifar
  dicenas train runs/quickstart --trial 7 --data flowers --recipe cifar --epochs 60 --out flowers
  torchrun --nproc-per-node 4 -m dicenas train dicenet_100 --data imagenet --recipe paper-e300 --out dicenet_100
"""

#: What the settings of a recipe are, for those who ask on the command line.
_SETTINGS = {
    "epochs": "passes over the training images",
    "batch": "images of an optimizer step, all processes together",
    "micro_batch": "images that a process takes at once; gradients are added up",
    "learning_rate": "highest learning rate",
    "momentum": "momentum",
    "nesterov": "Nesterov's momentum",
    "weight_decay": "weight decay",
    "max_grad_norm": "norm that gradients are clipped to",
    "schedule": "cosine or step",
    "warmup_epochs": "epochs in which the learning rate rises",
    "decay_at": "where the step schedule decays, as shares of the training",
    "decay_factor": "factor of the step schedule",
    "label_smoothing": "share of the target spread over all classes",
    "ema_decay": "decay of the moving average of the weights",
    "image_size": "height and width of the images, in pixels",
    "crop": "resized, shift or center",
    "crop_scale": "smallest and largest share of an image that 'resized' takes",
    "flip": "mirror half of the training images",
    "rand_augment": "magnitude of RandAugment",
    "mixup": "parameter of mixup, 0 for none",
    "center_crop": "share of a validation image that is seen",
    "amp": "auto, off, bfloat16 or float16",
    "gradient_checkpointing": "compute activations again instead of keeping them",
    "distillation_weight": "share of the teacher in the loss",
    "distillation_temperature": "temperature of distillation",
    "seed": "seed of everything random",
}


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "train", help="train a network for real, and export it", description=_DESCRIPTION, epilog=_EXAMPLES
    )
    parser.add_argument("source", metavar="SOURCE", help="architecture file, run folder, or name of a network")
    parser.add_argument("--data", required=True, metavar="DATA", help="'digits', or where the images are")
    parser.add_argument("--recipe", required=True, metavar="NAME", help="paper-e150, paper-e300, cifar or short")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the training")
    parser.add_argument("--trial", type=trial, help="'best' or the number of a trial of the run (default: best)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:N (default: a graphics card, if any)")
    parser.add_argument("--threads", type=positive_int, help="CPU threads (default: torch's)")
    parser.add_argument(
        "--workers", type=non_negative_int, help="processes that decode images (default: one a core, 8 at most)"
    )
    parser.add_argument("--compile", action="store_true", help="train through torch.compile")
    parser.add_argument("--teacher", metavar="NAME", help="learn from a network too: timm:NAME or torchvision:NAME")
    parser.add_argument(
        "--teacher-weights", type=Path, metavar="FILE", help="the teacher's weights (default: the published ones)"
    )
    parser.add_argument("--formats", default="py,safetensors", help="of the export (default: py,safetensors)")
    settings = parser.add_argument_group("settings of the recipe")
    for name, help_text in _SETTINGS.items():
        settings.add_argument(f"--{name.replace('_', '-')}", metavar="VALUE", type=_value, help=help_text)
    parser.set_defaults(run=run, after_interrupt="; the same command goes on from the last checkpoint")


def run(args: argparse.Namespace) -> int:
    """Train, print a line an epoch, and draw the curves."""
    from dicenas.evaluation import TrainingDiverged
    from dicenas.report import architecture_svg
    from dicenas.training import TeacherConfig, get_recipe, train

    if args.teacher_weights is not None and args.teacher is None:
        raise ValueError("--teacher-weights without --teacher: name the network whose weights these are")
    changes = {name: getattr(args, name) for name in _SETTINGS if getattr(args, name) is not None}
    recipe = get_recipe(args.recipe, **{name: None if value == "none" else value for name, value in changes.items()})
    architecture = _architecture(args, recipe)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("dicenas.training").setLevel(logging.INFO)
    try:
        result = train(
            architecture,
            args.data,
            recipe,
            args.out,
            teacher=None if args.teacher is None else TeacherConfig(args.teacher, args.teacher_weights),
            device=args.device,
            threads=args.threads,
            workers=args.workers,
            compiled=args.compile,
            formats=[name.strip() for name in args.formats.split(",")],
            drawing=architecture_svg,
            report=_printer(recipe.epochs),
        )
    except TrainingDiverged as error:
        print(f"dicenas train: {error}", file=sys.stderr)
        return 1
    if int(os.environ.get("RANK", 0)) > 0:
        return 0
    metrics = result.metrics
    print(
        f"accuracy {metrics['accuracy']:.2%}, top-5 {metrics['top5_accuracy']:.2%}, loss {metrics['loss']:.4f} after "
        f"{metrics['epochs']} epochs, {metrics['train_seconds']:,.0f} s of training"
    )
    print(f"exported to {result.export_path}")
    _draw(args.out)
    return 0


def _architecture(args: argparse.Namespace, recipe: Recipe) -> Architecture | str:
    from dicenas.cli.source import read_source
    from dicenas.nets import list_nets

    source = read_source(args.source, args.trial)
    if args.source in list_nets() and source.trial is None and not Path(args.source).exists():
        return str(args.source)
    return source.architecture.at_size(None if args.image_size is None else recipe.image_size)


def _printer(epochs: int) -> Callable[[int, Mapping[str, float]], None]:
    def report(epoch: int, metrics: Mapping[str, float]) -> None:
        print(
            f"epoch {epoch:>{len(str(epochs))}}/{epochs}  accuracy {metrics['accuracy']:.2%}  top-5 "
            f"{metrics['top5_accuracy']:.2%}  loss {metrics['loss']:.4f}  training loss {metrics['train_loss']:.4f}  "
            f"{metrics['seconds']:,.0f} s",
            flush=True,
        )

    return report


def _draw(out: Path) -> None:
    from dicenas.report.training_plots import plot_training

    try:
        drawn = plot_training(out)
    except ModuleNotFoundError as error:
        print(f"curves were not drawn: {error.name} is not installed (pip install 'dicenas[plots]')", file=sys.stderr)
        return
    print(f"drawn into {', '.join(str(path) for path in drawn)}")


def _value(text: str) -> Any:
    """Read a setting: a number, yes or no, ``none``, numbers with commas between them, or a word."""
    words = {"true": True, "yes": True, "false": False, "no": False}
    if text in words:
        return words[text]
    if "," in text:
        return tuple(_value(part) for part in text.split(","))
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text

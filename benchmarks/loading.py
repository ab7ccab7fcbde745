"""Share of a short training that is spent waiting for images.

    python benchmarks/loading.py --json benchmarks/results/loading.json
    python benchmarks/loading.py --dataset cifar10 --root DATA --image-size 32
    python benchmarks/loading.py --dataset imagefolder --root IMAGES --image-size 224 --from-files

A small network is the hardest case, as it leaves the least time to load the next batch. `--from-files` reads the images
from their files although they fit in memory. Each epoch gives one row; the first one in a process is not counted.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from measure import machine, write

if TYPE_CHECKING:
    from torch import Tensor

    from dicenas.evaluation import Data, Images


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=("digits", "cifar10", "imagefolder"), default="digits")
    parser.add_argument("--root", type=Path, help="folder of the images; none for digits")
    parser.add_argument("--image-size", type=int, default=32, help="in pixels (default: 32)")
    parser.add_argument("--train-limit", type=int, help="training images (default: all)")
    parser.add_argument("--batch", type=int, default=64, help="(default: 64)")
    parser.add_argument("--epochs", type=int, default=3, help="timed ones (default: 3)")
    parser.add_argument("--threads", type=int, default=1, help="(default: 1)")
    parser.add_argument("--width", type=float, default=0.1, help="of a ShuffleNetV2 with DiCE units (default: 0.1)")
    parser.add_argument("--from-files", action="store_true", help="read the images again in each epoch")
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    import torch

    from dicenas.evaluation import DataConfig, datasets, load_data

    torch.set_num_threads(args.threads)
    if args.from_files:
        datasets._MEMORY_LIMIT = 0
    start = time.perf_counter()
    data = load_data(DataConfig(args.dataset, args.root, args.image_size, args.train_limit))
    loaded_seconds = round(time.perf_counter() - start, 2)
    rows = measure(data, args.width, args.epochs, args.batch)
    for row in rows:
        print(
            f"epoch {row['epoch']}: {row['loading_seconds']:.3f} of {row['seconds']:.3f} s in loading, "
            f"{row['share']:.2%}; {row['images_per_second']:.0f} images/s"
        )
    print(
        f"decoded once, before training, in {loaded_seconds} s: {type(data.train).__name__}, {len(data.train)} images"
    )
    settings = {
        **{name: getattr(args, name) for name in ("dataset", "image_size", "batch", "width", "from_files")},
        "images": len(data.train),
        "kind": type(data.train).__name__,
        "load_data_seconds": loaded_seconds,
    }
    write(args.json, {**machine("cpu", args.threads), **settings}, rows)


def measure(data: Data, width: float, epochs: int, batch: int) -> list[dict[str, Any]]:
    """Train for some epochs and return, for each but the first, where its time went."""
    import torch

    from dicenas import Architecture, build
    from dicenas.evaluation import TrainConfig
    from dicenas.evaluation.trainer import Trainer

    size = data.image_size
    stem = "small" if size < 64 else "imagenet"
    stages = (("dice_k3", "dice_k3"),) * 3
    net = build(Architecture("shufflenetv2", width, stages, stem, (size, size), data.num_classes))
    watched = _Watched(data.train)
    trainer = Trainer(
        net.to(memory_format=torch.channels_last),
        replace(data, train=watched),
        TrainConfig(epochs=epochs + 1, batch=batch),
        torch.device("cpu"),
    )
    rows = []
    for epoch in range(epochs + 1):
        watched.seconds = 0.0
        start = time.perf_counter()
        trainer.run_epoch()
        seconds = time.perf_counter() - start
        if epoch:
            rows.append(
                {
                    "epoch": epoch,
                    "seconds": round(seconds, 4),
                    "loading_seconds": round(watched.seconds, 4),
                    "share": round(watched.seconds / seconds, 5),
                    "images_per_second": round(trainer.steps_per_epoch * trainer.batch / seconds, 1),
                }
            )
    return rows


@dataclass(eq=False)
class _Watched:
    """Images that count the seconds that their reader waits for batches."""

    images: Images
    seconds: float = 0.0

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_size(self) -> int:
        return self.images.image_size

    def batches(self, order: Tensor, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        source = self.images.batches(order, batch)
        while True:
            start = time.perf_counter()
            item = next(source, None)
            self.seconds += time.perf_counter() - start
            if item is None:
                return
            yield item


if __name__ == "__main__":
    main()

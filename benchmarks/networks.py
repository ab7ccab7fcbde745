"""Whole networks at 224x224: DiCENet against ShuffleNetV2, MobileNetV2 and MobileNetV3 of torchvision (Table 5).

    python benchmarks/networks.py --threads 1 --batch 1 --json benchmarks/results/networks-cpu-1-thread-batch-1.json
    python benchmarks/networks.py --networks dicenet_1.0 shufflenet_v2_x1_0 --modes folded     # a look, in seconds

Modes: `eager`; `plain`, of DiCENet alone, without the kernels; `folded`, normalisations folded, for DiCENet
`fuse_for_inference` with the fused kernels; `compiled`, torch.compile of `folded`; `edgenets`, the published code as
it is (``--edgenets``). Pairs are compared in the best mode of each. Figure 7's optimised against unoptimised network is
the last kind of row: the published code where it is at hand, else `plain`, against the best mode.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from measure import interleaved, keep_memory, machine, ratio, summary, write

if TYPE_CHECKING:
    from torch import Tensor, nn

#: DiCENet's scale and the network that it is compared with.
PAIRS = (
    ("dicenet_1.0", "shufflenet_v2_x1_0"),
    ("dicenet_1.5", "shufflenet_v2_x1_0"),
    ("dicenet_2.4", "shufflenet_v2_x1_5"),
)
#: The rest of Table 5, which compares DiCENet 2.4 with all three.
OTHERS = (("dicenet_2.4", "mobilenet_v2"), ("dicenet_2.4", "mobilenet_v3_large"))
NETWORKS = tuple(dict.fromkeys(name for pair in (*PAIRS, *OTHERS) for name in pair))
MODES = ("eager", "plain", "folded", "compiled")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=1, help="(default: 1)")
    parser.add_argument("--batch", type=int, default=1, help="(default: 1)")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS, help="(default: all)")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES, help="(default: all)")
    parser.add_argument("--seconds", type=float, default=20, help="of measuring, compiling not counted (default: 20)")
    parser.add_argument("--edgenets", type=Path, help="a checkout of the published code")
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    keep_memory()
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    import torch

    torch._inductor.config.freezing = True  # weights are constants for everybody
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    options = {"device": args.device, "dtype": getattr(torch, args.dtype)}
    x = torch.randn(args.batch, 3, 224, 224, **options)
    runs: dict[str, Callable[[], object]] = {}
    with torch.no_grad():
        for name in args.networks:
            net = build(name).eval().to(**options)
            for mode, run in modes(name, net, x, args.modes):
                runs[f"{name} {mode}"] = run
            if args.edgenets is not None and name.startswith("dicenet"):
                theirs = published(args.edgenets, float(name.partition("_")[2])).eval().to(**options)
                runs[f"{name} edgenets"] = lambda theirs=theirs: theirs(x)
        times = interleaved(runs, args.seconds, args.device)
    rows = [*medians(times), *comparisons(times)]
    for row in rows:
        print(row)
    about = {**machine(args.device, args.threads), "batch": args.batch, "dtype": args.dtype, "image_size": 224}
    write(args.json, about, rows)


def build(name: str) -> nn.Module:
    """Build DiCENet, or a network of torchvision."""
    if name.startswith("dicenet_"):
        from dicenas.nets import dicenet

        return dicenet(float(name.partition("_")[2]))
    import torchvision

    return getattr(torchvision.models, name)()


def modes(name: str, net: nn.Module, x: Tensor, wanted: list[str]) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield the modes of a network."""
    import torch
    from torch.fx.experimental.optimization import fuse

    from dicenas.nets import fuse_for_inference
    from dicenas.ops import kernels

    ours = name.startswith("dicenet_")
    folded = fuse_for_inference(net) if ours else fuse(net)
    if "eager" in wanted:
        yield "eager", lambda: net(x)
    if "plain" in wanted and ours:
        yield "plain", kernels.disabled()(lambda: net(x))
    if "folded" in wanted:
        yield "folded", lambda: folded(x)
    if "compiled" in wanted:
        compiled = torch.compile(folded, dynamic=False)
        yield "compiled", lambda: compiled(x)


def published(path: Path, scale: float) -> nn.Module:
    """Build DiCENet from a checkout of EdgeNets."""
    if str(path) not in sys.path:
        sys.path.insert(0, str(path))
    from model.classification.dicenet import CNNModel

    return CNNModel(SimpleNamespace(s=scale, num_classes=1000, channels=3, model_width=224, model_height=224))


def medians(times: dict[str, list[float]]) -> Iterator[dict[str, object]]:
    """Yield a row for each network and mode."""
    for name, median in summary(times).items():
        yield {"network": name, "us": median}


def comparisons(times: dict[str, list[float]]) -> Iterator[dict[str, object]]:
    """Yield a row for each pair, in the best modes, and for each DiCENet, optimised against unoptimised."""
    found = summary(times)

    def best(network: str) -> str | None:
        names = [f"{network} {mode}" for mode in MODES if f"{network} {mode}" in found]
        return min(names, key=found.__getitem__, default=None)

    for ours, theirs in (*PAIRS, *OTHERS):
        fast, other = best(ours), best(theirs)
        if fast is not None and other is not None:
            yield {"pair": f"{fast} / {other}", "ratio": ratio(times, fast, other)}
    for ours in dict.fromkeys(ours for ours, _ in PAIRS):
        fast = best(ours)
        slow = next((f"{ours} {mode}" for mode in ("edgenets", "plain") if f"{ours} {mode}" in found), None)
        if fast is not None and slow is not None:
            yield {"pair": f"{slow} / {fast}", "ratio": ratio(times, slow, fast)}


if __name__ == "__main__":
    main()

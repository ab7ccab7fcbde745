"""Whole networks at 224x224: DiCENet against ShuffleNetV2, MobileNetV2 and MobileNetV3 of torchvision (Table 5).

    python benchmarks/networks.py --threads 1 --batch 1 --json benchmarks/results/networks-cpu-1-1.json

Modes: `eager`, `folded` (normalisations folded; for DiCENet `fuse_for_inference`, with the fused kernels) and
`compiled`, torch.compile of `folded`. Figure 7's optimised against unoptimised network is `folded` against `eager`.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

from measure import interleaved, keep_memory, machine, ratio, summary, write

#: DiCENet's scale and the network that it is compared with, with the goal for the ratio of the best modes.
PAIRS = ((1.0, "shufflenet_v2_x1_0"), (1.5, "shufflenet_v2_x1_0"), (2.4, "shufflenet_v2_x1_5"))
OTHERS = ("mobilenet_v2", "mobilenet_v3_large")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--scales", type=float, nargs="+", default=[scale for scale, _ in PAIRS])
    parser.add_argument("--others", action="store_true", help="measure MobileNetV2 and MobileNetV3 too")
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    keep_memory()
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    import torch
    import torchvision
    from torch.fx.experimental.optimization import fuse

    from dicenas.nets import dicenet, fuse_for_inference

    torch._inductor.config.freezing = True  # weights are constants for everybody
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    x = torch.randn(args.batch, 3, 224, 224, device=args.device)
    pairs = [pair for pair in PAIRS if pair[0] in args.scales]
    folded = {}
    for scale, _ in pairs:
        net = dicenet(scale).eval().to(args.device)
        folded[f"dicenet_{scale}"] = (net, fuse_for_inference(net))
    for name in {other for _, other in pairs} | set(OTHERS if args.others else ()):
        net = getattr(torchvision.models, name)().eval().to(args.device)
        folded[name] = (net, fuse(net))
    candidates = {}
    with torch.no_grad():
        for name, (net, fast) in folded.items():
            compiled = torch.compile(fast, dynamic=False)
            candidates[f"{name} eager"] = lambda net=net: net(x)
            candidates[f"{name} folded"] = lambda fast=fast: fast(x)
            candidates[f"{name} compiled"] = lambda compiled=compiled: compiled(x)
        times = interleaved(candidates, args.rounds, args.device)
    medians = summary(times)
    rows: list[dict[str, object]] = [{"network": name, "us": median} for name, median in medians.items()]
    for scale, other in pairs:
        ours, theirs = (
            min((f"{name} {mode}" for mode in ("folded", "compiled")), key=medians.__getitem__)
            for name in (f"dicenet_{scale}", other)
        )
        rows.append({"pair": f"{ours} / {theirs}", "ratio": ratio(times, ours, theirs)})
        rows.append({"pair": f"dicenet_{scale} eager / {ours}", "ratio": ratio(times, f"dicenet_{scale} eager", ours)})
    for row in rows:
        print(row)
    write(args.json, {**machine(args.device, args.threads), "batch": args.batch, "image_size": 224}, rows)


if __name__ == "__main__":
    main()

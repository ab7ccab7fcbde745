"""Every candidate op at the shapes of DiCENet and of a MobileNet: what it costs, and what it takes in three runtimes.

    python benchmarks/ops.py --json benchmarks/results/ops-cpu.json

A row is one candidate at one shape. Runtimes: `eager`, without native kernels; `kernels`, with them; `fused`, by
`fuse_for_inference`. All candidates of a shape take turns: `us` are the medians of the rounds, `least_us` the fastest
ones, which other work on the machine disturbs less and which docs/choosing.md shows.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from measure import interleaved, keep_memory, machine, summary, write

#: Channels of input and output, and the size of the output: DiCENet's stages, and a MobileNet's.
SHAPES = ("116x116x28", "232x232x14", "464x464x7", "64x128x56")
RUNTIMES = ("eager", "kernels", "fused")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shapes", nargs="+", default=SHAPES, metavar="INxOUTxSIZE")
    parser.add_argument("--strides", type=int, nargs="+", choices=(1, 2), default=[1, 2])
    parser.add_argument("--only", nargs="+", metavar="OP", help="ops or candidates (default: all)")
    parser.add_argument("--seconds", type=float, default=20.0, help="for a shape and stride, at least 5 rounds")
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    keep_memory()
    import torch

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rows: list[dict[str, object]] = []
    for shape in args.shapes:
        for stride in args.strides:
            rows += measure_shape(shape, stride, args)
            print(f"{shape}, stride {stride}: {len(rows)} rows", flush=True)
    write(args.json, machine(args.device, args.threads), rows)


def measure_shape(shape: str, stride: int, args: argparse.Namespace) -> list[dict[str, object]]:
    """Measure all candidates at one shape."""
    import torch

    from dicenas.cost import build_for_profile, candidate_fits, profile_candidate
    from dicenas.ops import CandidateArguments, expand_candidates, list_ops

    in_channels, out_channels, size = map(int, shape.split("x"))
    arguments = CandidateArguments(in_channels, out_channels, stride, (size, size), 1, "prelu", True)
    candidates = [c for c in expand_candidates(args.only or list_ops()) if candidate_fits(c, arguments)]
    x = torch.randn(1, in_channels, *arguments.in_size, device=args.device)
    runs: dict[str, Callable[[], object]] = {}
    for candidate in candidates:
        module = build_for_profile(candidate, arguments).eval().to(args.device)
        for runtime in RUNTIMES:
            runs[f"{candidate} {runtime}"] = in_runtime(module, runtime, x)
    with torch.no_grad():
        times = interleaved(runs, args.seconds, args.device)
    medians = summary(times)
    rows: list[dict[str, object]] = []
    for candidate in candidates:
        profile = profile_candidate(candidate, arguments)
        rows.append(
            {
                "shape": shape,
                "stride": stride,
                "candidate": candidate,
                "macs": profile.macs,
                "params": profile.params,
                "memory_kb": round(profile.peak_memory_mb * 1e3),
                "receptive_field": str(profile.receptive_field),
                "us": {runtime: medians[f"{candidate} {runtime}"] for runtime in RUNTIMES},
                "least_us": {runtime: round(min(times[f"{candidate} {runtime}"]), 1) for runtime in RUNTIMES},
            }
        )
    return rows


def in_runtime(module: object, runtime: str, x: object) -> Callable[[], object]:
    """Return what runs a module in a runtime."""
    from dicenas.nets import fuse_for_inference
    from dicenas.ops import kernels

    if runtime == "fused":
        module = fuse_for_inference(module)
    if runtime != "eager":
        return lambda: module(x)

    def eager() -> object:
        with kernels.disabled():
            return module(x)

    return eager


if __name__ == "__main__":
    main()

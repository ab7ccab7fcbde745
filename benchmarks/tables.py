"""Print the tables of docs/performance.md, choosing.md and latency.md from benchmarks/results, or write them there.

python benchmarks/tables.py
python benchmarks/tables.py --write
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
DOCUMENT = ROOT / "docs" / "performance.md"
CHOOSING = ROOT / "docs" / "choosing.md"
LATENCY = ROOT / "docs" / "latency.md"
#: The tables stand between these lines of a document.
MARKS = ("<!-- Printed by benchmarks/tables.py -->", "<!-- End of what benchmarks/tables.py prints -->")

#: Ratios of the kernels and their columns; those that no row of a file has are left out.
RATIOS = {
    "forward": "DimConv",
    "forward_against_views": "against fallback",
    "forward_against_compiled": "against compiled",
    "three_launches_against_one": "3 launches / 1",
    "against_native": "times native",
    "block": "block",
    "unit": "unit",
    "unit_against_edgenets": "unit, EdgeNets",
    "train": "training step",
    "train_against_edgenets": "training, EdgeNets",
    "share_of_copy_bandwidth": "share of copy",
}
#: What a kernel's ratio should be at least, by the number of CPU threads.
KERNEL_GOALS = (
    ("CPU DimConv forward against eager, every shape", "forward", {1: 6, 2: 8}),
    ("CPU fused inference block, every shape", "block", {1: 12, 2: 12}),
    ("CPU training step of a DiCE unit", "train", {1: 3, 2: 3}),
)
#: What the ratio of two networks should be at most.
NETWORK_GOALS = (
    ("dicenet_1.0", "shufflenet_v2_x1_0", 1.0),
    ("dicenet_1.5", "shufflenet_v2_x1_0", 1.2),
    ("dicenet_2.4", "shufflenet_v2_x1_5", 1.2),
)

#: Files of benchmarks/kernels.py and networks.py, whose tables are those of docs/performance.md.
SPEED_FILES = ("kernels-*.json", "networks-*.json")
#: Files of benchmarks/ops.py, whose tables are those of docs/choosing.md.
OPS_FILES = "ops-*.json"
#: Candidates that these tables show, of those that fit.
SHOWN = (
    "se", "pointwise", "depthwise_k3", "grouped_k3", "conv_k3", "conv_k5", "stacked_k5", "dilated_k3", "factorized_k3",
    "separable_k3", "separable_k5", "separable_k7", "separable_se_k3", "separable_hse_k3", "mixed_k5", "mixed_k7",
    "dice_k3", "dice_k5", "bottleneck_k3", "shuffle_bottleneck_k3", "inverted_residual_k3",
)  # fmt: skip
#: Candidates that are compared with a separable convolution, at every shape.
COMPARED = (
    "depthwise_k3", "pointwise", "conv_k3", "separable_k7", "separable_se_k3", "mixed_k7", "dice_k3", "bottleneck_k3",
    "shuffle_bottleneck_k3", "inverted_residual_k3", "dw_dimfuse_k3",
)  # fmt: skip
BASELINE = "separable_k3"

Result = tuple[dict[str, Any], list[dict[str, Any]]]


def main() -> None:
    """Print the tables, or write them into the document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the tables into the documents")
    args = parser.parse_args()
    for document, text in documents(RESULTS).items():
        if args.write:
            document.write_text(replaced(document.read_text(encoding="utf-8"), text), encoding="utf-8")
        else:
            sys.stdout.write(text)


def documents(folder: Path) -> dict[Path, str]:
    """Return the documents with the tables that belong into them."""
    return {DOCUMENT: tables(folder), CHOOSING: ops_tables(folder), LATENCY: latency_tables(folder / "latency")}


def replaced(document: str, text: str) -> str:
    """Return the document with other tables between its marks.

    Raises:
        ValueError: It has no marks.
    """
    before, start, rest = document.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not start or not end:
        raise ValueError(f"the document has no lines {MARKS[0]!r} and {MARKS[1]!r}")
    return f"{before}{start}\n\n{text}\n{end}{after}"


def tables(folder: Path) -> str:
    """Return one table a file, and the goals."""
    results = {path.name: read(path) for kind in SPEED_FILES for path in sorted(folder.glob(kind))}
    parts = [part for name, result in results.items() for part in file_tables(name, *result)]
    return "\n\n".join([*parts, table(["goal", "wanted", "reached here"], goals(list(results.values())), "lll")]) + "\n"


def read(path: Path) -> Result:
    """Read the machine and the rows of a file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return content["machine"], content["rows"]


def table(header: list[str], rows: Any, align: str) -> str:
    """Return a table in Markdown."""
    rule = "|".join("---:" if each == "r" else "---" for each in align)
    lines = [" | ".join(str(cell) for cell in row) for row in rows]
    return "\n".join([f"| {' | '.join(header)} |", f"|{rule}|", *(f"| {line} |" for line in lines)])


def ops_tables(folder: Path) -> str:
    """Return the tables of candidate ops."""
    results = {path.name: read(path) for path in sorted(folder.glob(OPS_FILES))}
    return "\n\n".join(part for name, result in results.items() for part in ops_file_tables(name, *result)) + "\n"


def ops_file_tables(name: str, about: dict[str, Any], rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the parts of one file of candidate ops: comparisons, then a table a shape."""
    yield machine_line(name, about)
    by_place = {(row["shape"], row["stride"], row["candidate"]): row for row in rows}
    shapes = list(dict.fromkeys(row["shape"] for row in rows))
    for stride in sorted({row["stride"] for row in rows}):
        compared = [
            [candidate, *(against_baseline(by_place, shape, stride, candidate) for shape in shapes)]
            for candidate in COMPARED
        ]
        yield f"Stride {stride}, times as much as `{BASELINE}`: FLOPs (MACs) / time `eager` / time `fused`"
        yield table(["candidate", *map(shape_title, shapes)], compared, "l" + "r" * len(shapes))
    header = ["candidate", "MMACs", "params", "memory KB", "receptive field"]
    header += ["eager us", "kernels us", "fused us", "fused us / MMAC"]
    for shape in shapes:
        shown = [by_place[shape, 1, candidate] for candidate in SHOWN if (shape, 1, candidate) in by_place]
        if shown:
            yield f"{shape_title(shape)}, stride 1"
            yield table(header, map(ops_cells, shown), "lrrrlrrrr")


def shape_title(shape: str) -> str:
    """Return ``116 to 116, 28×28`` for ``116x116x28``."""
    in_channels, out_channels, size = shape.split("x")
    return f"{in_channels} to {out_channels}, {size}×{size}"


def against_baseline(
    by_place: dict[tuple[str, int, str], dict[str, Any]], shape: str, stride: int, candidate: str
) -> str:
    """Return how many times as much a candidate costs as the baseline."""
    row, baseline = by_place.get((shape, stride, candidate)), by_place.get((shape, stride, BASELINE))
    if row is None or baseline is None:
        return "–"
    times = (row["least_us"][runtime] / baseline["least_us"][runtime] for runtime in ("eager", "fused"))
    ratios = (row["macs"] / baseline["macs"], *times)
    return " / ".join(f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.2g}" for ratio in ratios)


def ops_cells(row: dict[str, Any]) -> list[str]:
    """Return the cells of a candidate."""
    mmacs, us = row["macs"] / 1e6, row["least_us"]
    return [
        row["candidate"],
        f"{mmacs:.2f}",
        f"{row['params']:,}",
        f"{row['memory_kb']:,}",
        row["receptive_field"],
        *(f"{us[runtime]:,.0f}" for runtime in ("eager", "kernels", "fused")),
        f"{us['fused'] / mmacs:,.0f}",
    ]


def latency_tables(folder: Path) -> str:
    """Return how well latency tables predict, a table for each machine."""
    return "\n\n".join(part for path in sorted(folder.glob("*-check.json")) for part in check_tables(path)) + "\n"


def check_tables(path: Path, root: Path = ROOT) -> Iterator[str]:
    """Yield the parts of one check: what was measured on, then a row for each way to predict."""
    check = json.loads(path.read_text(encoding="utf-8"))
    found = check["fingerprint"]
    yield (
        f"`{path.name}`: {found['device_name']}, runtime {found['runtime']}, batch {found['batch']}, {found['dtype']}, "
        f"threads {found['threads']}, {found['input_size']}×{found['input_size']}, torch {found['torch_version']}, "
        f"table of {check['measured_at'][:10]}, {len(check['networks'])} unseen networks, reference network "
        f"{check['drift']:+.1%} since the table, form `{check['form']}`"
    )
    columns = {
        "within 10 %": ("within_10_percent", ".1%"),
        "within 5 %": ("within_5_percent", ".1%"),
        "Kendall tau": ("kendall_tau", ".3f"),
        "Spearman rho": ("spearman_rho", ".3f"),
        "median error": ("median_error", ".1%"),
        "largest": ("largest_error", ".1%"),
    }
    ways = {"table, calibrated": check, "plain sum of blocks": check["block_sum"], "FLOPs (MACs) alone": check["macs"]}
    rows = [[way, *(format(values[key], form) for key, form in columns.values())] for way, values in ways.items()]
    yield table(["prediction", *columns], rows, "l" + "r" * len(columns))
    if (picture := path.with_suffix(".png")).is_file():
        yield f"![Predicted and measured latency](../{picture.relative_to(root).as_posix()})"


def machine_line(name: str, about: dict[str, Any]) -> str:
    """Return what the figures of a file were measured on."""
    return (
        f"`{name}`: {about['device']}, {about['cores']} cores ({about['cpu_capability']}), {about['threads']} "
        f"{'thread' if about['threads'] == 1 else 'threads'}, torch {about['torch']}, {about['date']}, load average at "
        f"the end {about['load_average']}"
    )


def file_tables(name: str, about: dict[str, Any], rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the parts of one file: a line about the machine, then its tables."""
    yield machine_line(name, about)
    if "ratios" in rows[0]:
        columns = {key: title for key, title in RATIOS.items() if any(key in row["ratios"] for row in rows)}
        cells = [
            [
                f"{row['batch']}, {map_title(row)}, {row['dtype']}",
                *(row["ratios"].get(key, "–") for key in columns),
            ]
            for row in rows
        ]
        yield table(["batch, shape, dtype", *columns.values()], cells, "l" + "r" * len(columns))
        return
    times = [[row["network"], f"{row['us'] / 1000:.1f}"] for row in rows if "network" in row]
    yield table(["network and mode", "ms"], times, "lr")
    yield table(["pair", "ratio"], [[row["pair"], row["ratio"]] for row in rows if "pair" in row], "lr")


def is_native(row: dict[str, Any]) -> bool:
    """Whether a map has the size that the unit was built for."""
    return bool(row.get("native", row["size"]) == row["size"])


def map_title(row: dict[str, Any]) -> str:
    """Return ``116×28×28``, with the native size where that is another."""
    title = f"{row['channels']}×{row['size']}×{row['size']}"
    return title if is_native(row) else f"{title} (native {row['native']}×{row['native']})"


def goals(results: list[Result]) -> Iterator[list[str]]:
    """Yield a row for each goal: what it is, what was wanted, what was reached."""
    for text, key, by_threads in KERNEL_GOALS:
        for threads, wanted in by_threads.items():
            found = [
                row["ratios"][key]
                for about, rows in results
                for row in rows
                if "ratios" in row
                and is_cpu(about, threads)
                and row["dtype"] == "float32"
                and is_native(row)
                and key in row["ratios"]
            ]
            plural = "thread" if threads == 1 else "threads"
            yield [f"{text}, {threads} {plural}", f">= {wanted}", verdict(found, lambda ratio, at=wanted: ratio >= at)]
    for ours, theirs, wanted in NETWORK_GOALS:
        found = [
            (row["ratio"], f"{about['threads']} thr., batch {about['batch']}")
            for about, rows in results
            for row in rows
            if "pair" in row and is_cpu(about) and is_pair(row["pair"], ours, theirs)
        ]
        reached = "not measured"
        if found:
            words = verdict([ratio for ratio, _ in found], lambda ratio, at=wanted: ratio <= at).rpartition(": ")[2]
            reached = f"{', '.join(f'{ratio} ({where})' for ratio, where in found)}: {words}"
        yield [f"CPU {ours} / {theirs}, best modes", f"<= {wanted}", reached]
    yield from gpu_goals([result for result in results if not is_cpu(result[0])])


def gpu_goals(results: list[Result]) -> Iterator[list[str]]:
    """Yield the same for the results of GPUs."""
    where = "116×28×28, batch 64, float32"
    for text, key, wanted in (("DimConv forward", "kernel", 31), ("fused block", "block_kernel", 18)):
        found = [
            f"{row['us'][key]} ({about['device']})"
            for about, rows in results
            for row in rows
            if "ratios" in row and (row["channels"], row["batch"], row["dtype"]) == (116, 64, "float32")
        ]
        yield [f"H200 {text}, {where}, us", f"<= {wanted}", ", ".join(found) or "not run: no GPU"]
    ratios = [
        f"{row['ratio']} (batch {about['batch']})"
        for about, rows in results
        for row in rows
        if "pair" in row and is_pair(row["pair"], "dicenet_2.4", "shufflenet_v2_x1_5")
    ]
    yield ["H200 dicenet_2.4 / shufflenet_v2_x1_5, graph replays", "<= 1.0", ", ".join(ratios) or "not run: no GPU"]


def is_cpu(about: dict[str, Any], threads: int | None = None) -> bool:
    """Whether a file is of the CPU, with so many threads."""
    return about.get("type", "cpu") == "cpu" and threads in (None, about["threads"])


def is_pair(pair: str, ours: str, theirs: str) -> bool:
    """Whether ``"a mode / b mode"`` is about two networks."""
    return tuple(part.split()[0] for part in pair.split(" / ")) == (ours, theirs)


def verdict(ratios: list[float], reached: Callable[[float], bool]) -> str:
    """Return the range and the median of ratios, and whether they reach a goal."""
    if not ratios:
        return "not measured"
    count = sum(map(reached, ratios))
    words = "reached" if count == len(ratios) else f"reached in {count} of {len(ratios)}" if count else "not reached"
    return f"{min(ratios)}-{max(ratios)}, median {round(statistics.median(ratios), 2)}: {words}"


if __name__ == "__main__":
    main()

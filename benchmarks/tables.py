"""Print the tables of docs/performance.md from the files in benchmarks/results.

python benchmarks/tables.py
"""

from __future__ import annotations

import json
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"
RATIOS = {
    "forward": "DimConv",
    "forward_against_views": "against fallback",
    "three_launches_against_one": "3 launches / 1",
    "block": "block",
    "unit": "unit",
    "train": "training step",
    "share_of_copy_bandwidth": "share of copy",
}


def main() -> None:
    """Print one table a file."""
    for path in sorted(RESULTS.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        about, rows = content["machine"], content["rows"]
        print(
            f"\n{path.name}: {about['device']}, {about['cores']} cores ({about['cpu_capability']}), "
            f"{about['threads']} threads, torch {about['torch']}, {about['date']}, "
            f"load average at the end {about['load_average']}\n"
        )
        if "ratios" in rows[0]:
            print(f"| batch, shape, dtype | {' | '.join(RATIOS.values())} |\n|---{'|---:' * len(RATIOS)}|")
            for row in rows:
                ratios = " | ".join(str(row["ratios"].get(name, "–")) for name in RATIOS)
                shape = f"{row['batch']}, {row['channels']}×{row['size']}×{row['size']}, {row['dtype']}"
                print(f"| {shape} | {ratios} |")
        else:
            print("| network and mode | ms |\n|---|---:|")
            for row in rows:
                if "network" in row:
                    print(f"| {row['network']} | {row['us'] / 1000:.1f} |")
            print("\n| pair | ratio |\n|---|---:|")
            for row in rows:
                if "pair" in row:
                    print(f"| {row['pair']} | {row['ratio']} |")


if __name__ == "__main__":
    main()

"""Run the checks and print the table of docs/compatibility.md, or write it there.

python -m tests.compatibility.table
python -m tests.compatibility.table --write --only fx DDP
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Collection
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "compatibility.md"
#: The table stands between these lines of the document.
MARKS = ("<!-- Written by tests/compatibility/table.py -->", "<!-- End of what tests/compatibility/table.py writes -->")
NO_GPU = "not run: no GPU"
Cells = dict[str, dict[str, str]]


def main() -> None:
    """Print the table, or write it into the document."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from tests.compatibility.checks import CHECKS
    from tests.compatibility.subjects import SUBJECTS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the table into the document")
    parser.add_argument(
        "--only", nargs="+", metavar="COLUMN", choices=list(CHECKS), default=list(CHECKS),
        help="run these columns, and take the others from the document",
    )  # fmt: skip
    args = parser.parse_args()
    before = {} if set(args.only) == set(CHECKS) else documented()
    cells = found(args.only, SUBJECTS)
    table = text({name: dict.fromkeys(CHECKS, "not run") | before.get(name, {}) | cells[name] for name in cells})
    if args.write:
        DOCUMENT.write_text(replaced(DOCUMENT.read_text(encoding="utf-8"), table), encoding="utf-8")
    else:
        sys.stdout.write(table)


def cell(title: str, name: str) -> str:
    """Run a check on a subject.

    Raises:
        Exception: What is wrong.
    """
    import torch

    from tests.compatibility.checks import CHECKS
    from tests.compatibility.subjects import SUBJECTS

    check, subject = CHECKS[title], SUBJECTS[name]
    if not check.applies(name, subject):
        return "–"
    if check.needs_gpu and not torch.cuda.is_available():
        return NO_GPU
    check.run(subject)
    return "yes"


def found(titles: Collection[str], names: Collection[str]) -> Cells:
    """Run the checks of some columns on some subjects, and say of each that is wrong what it is."""
    cells: Cells = {name: {} for name in names}
    for title in titles:
        for name in names:
            try:
                cells[name][title] = cell(title, name)
            except Exception as error:  # noqa: BLE001 - whatever is wrong, the table says no
                cells[name][title] = "no"
                sys.stderr.write(f"{title} of {name}: {type(error).__name__}: {error}\n")
    return cells


def text(cells: Cells) -> str:
    """Return the table in Markdown."""
    titles = list(next(iter(cells.values())))
    lines = [["", *titles], ["---"] * (len(titles) + 1)]
    lines += [[f"`{name}`", *(row[title] for title in titles)] for name, row in cells.items()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def documented() -> Cells:
    """Read the table of the document."""
    header, _, *rows = [
        [each.strip() for each in line.strip("|\n").split("|")]
        for line in between(DOCUMENT.read_text(encoding="utf-8")).splitlines()
        if line.startswith("|")
    ]
    return {row[0].strip("`"): dict(zip(header[1:], row[1:], strict=True)) for row in rows}


def between(document: str) -> str:
    """Return what stands between the marks.

    Raises:
        ValueError: The document has no marks.
    """
    _, start, rest = document.partition(MARKS[0])
    inside, end, _ = rest.partition(MARKS[1])
    if not start or not end:
        raise ValueError(f"{DOCUMENT} has no lines {MARKS[0]!r} and {MARKS[1]!r}")
    return inside


def replaced(document: str, table: str) -> str:
    """Return the document with another table between its marks."""
    return document.replace(f"{MARKS[0]}{between(document)}{MARKS[1]}", f"{MARKS[0]}\n\n{table}\n{MARKS[1]}")


if __name__ == "__main__":
    main()

"""The rows of the paper's Tables 1 to 3 as files: each names a network of ours and holds the paper's figures."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dicenas.architecture import Architecture
from dicenas.nets import get_backbone
from dicenas.ops import expand_candidates
from dicenas.spelling import did_you_mean

__all__ = ["TABLES", "PaperRow", "config_folder", "load_row", "load_rows"]

#: The tables whose rows are files, Table 2 in its two parts.
TABLES = ("1", "2a", "2b", "3")

_KEYS = ("table", "row", "column", "network", "paper")
_NETWORK_KEYS = ("backbone", "width", "image_size", "depths", "op")
_PAPER_KEYS = ("macs_millions", "top1_percent")


@dataclass(frozen=True)
class PaperRow:
    """A network in one of the paper's tables.

    Attributes:
        name: Name of the file without its suffix.
        table: One of :data:`TABLES`.
        row: What the paper calls the row.
        column: The network that the row stands in, as the paper calls it.
        architecture: The network of ours.
        depths: Blocks of each stage, as the backbone's spaces count them.
        op: Candidate op of all blocks.
        paper_macs_millions: The paper's FLOPs, which are multiply-adds.
        paper_top1_percent: The paper's ImageNet accuracy.
    """

    name: str
    table: str
    row: str
    column: str
    architecture: Architecture
    depths: tuple[int, ...]
    op: str
    paper_macs_millions: float
    paper_top1_percent: float


def config_folder() -> Path:
    """Return the folder of the rows: ``dicenas/configs/paper`` where installed, ``configs/paper`` of a checkout.

    Raises:
        FileNotFoundError: It is in neither place.
    """
    package = Path(__file__).resolve().parent.parent
    places = [parent / "configs" / "paper" for parent in (package, package.parent)]
    for folder in places:
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"the configurations of the paper's rows are in neither of {places[0]} and {places[1]}")


def load_rows(table: str) -> list[PaperRow]:
    """Return all rows of a table, in the order of the files' names.

    Args:
        table: One of :data:`TABLES`.

    Raises:
        ValueError: The table is none of them, or a file is damaged.
        FileNotFoundError: The files are not installed.
    """
    if table not in TABLES:
        raise ValueError(f"unknown table {table!r}; expected one of {', '.join(TABLES)}")
    return [load_row(path) for path in sorted(config_folder().glob(f"table{table}_*.yaml"))]


def load_row(path: str | Path) -> PaperRow:
    """Read one row.

    Raises:
        ValueError: The file is no such row; the message names the file and the key.
        OSError: The file cannot be read.
    """
    path = Path(path)
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
        return _row(path.stem, given)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _row(name: str, given: Any) -> PaperRow:
    _check_keys("the file", given, _KEYS)
    _check_keys("network", given["network"], _NETWORK_KEYS)
    _check_keys("paper", given["paper"], _PAPER_KEYS)
    table = str(given["table"])
    if table not in TABLES:
        raise ValueError(f"table {table!r} is none of {', '.join(TABLES)}")
    network, paper = given["network"], given["paper"]
    for key in ("backbone", "op"):
        if not isinstance(network[key], str):
            raise ValueError(f"network.{key} {network[key]!r} should be a name")
    backbone = get_backbone(network["backbone"])
    depths, op = network["depths"], network["op"]
    if not isinstance(depths, list) or not all(_is_number(depth, int) for depth in depths):
        raise ValueError(f"network.depths {depths!r} should be a list with the number of blocks of each stage")
    if expand_candidates([op]) != (op,):
        raise ValueError(
            f"network.op {op!r} is an op; name one of its candidates: {', '.join(expand_candidates([op]))}"
        )
    for section, key, kind in (
        ("network", "width", float),
        ("network", "image_size", int),
        ("paper", "macs_millions", float),
        ("paper", "top1_percent", float),
    ):
        if not _is_number(given[section][key], kind):
            raise ValueError(f"{section}.{key} {given[section][key]!r} should be a positive number")
    architecture = Architecture(
        backbone.name,
        network["width"],
        tuple((op,) * (backbone.leading_blocks + depth) for depth in depths),
        image_size=network["image_size"],
    )
    backbone.checked_layout(architecture)
    return PaperRow(
        name=name,
        table=table,
        row=str(given["row"]),
        column=str(given["column"]),
        architecture=architecture,
        depths=tuple(depths),
        op=op,
        paper_macs_millions=paper["macs_millions"],
        paper_top1_percent=paper["top1_percent"],
    )


def _check_keys(what: str, given: Any, known: Collection[str]) -> None:
    expected = f"(expected: {', '.join(known)})"
    if not isinstance(given, Mapping):
        raise ValueError(f"{what} should hold a mapping {expected}, got {given!r:.80}")
    if unknown := [key for key in given if key not in known]:
        raise ValueError(f"{what} has an unknown key {unknown[0]!r}{did_you_mean(str(unknown[0]), known)} {expected}")
    if missing := [key for key in known if key not in given]:
        raise ValueError(f"{what} has no {missing[0]!r} {expected}")


def _is_number(value: Any, kind: type[int] | type[float]) -> bool:
    return isinstance(value, int | kind) and not isinstance(value, bool) and value > 0

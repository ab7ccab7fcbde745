"""What DiCENet's paper (arXiv 1906.03516) published, and the networks of ours that stand for its rows."""

from dicenas.paper.published import (
    FIGURE_2,
    TABLE_4,
    TABLE_8,
    PublishedPoint,
    PublishedScale,
    PublishedShares,
)
from dicenas.paper.rows import TABLES, PaperRow, config_folder, load_row, load_rows

__all__ = [
    "FIGURE_2",
    "TABLES",
    "TABLE_4",
    "TABLE_8",
    "PaperRow",
    "PublishedPoint",
    "PublishedScale",
    "PublishedShares",
    "config_folder",
    "load_row",
    "load_rows",
]

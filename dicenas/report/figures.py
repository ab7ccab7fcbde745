"""Drawing with matplotlib: one style, files that appear whole, and what can be said before anything is computed."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dicenas.files import atomic_write_bytes

__all__ = ["INK", "SOFT", "SUFFIXES", "check_plot_path", "draw_figure", "render"]

#: Suffixes of the files that pictures can be drawn into.
SUFFIXES = (".png", ".svg", ".pdf")

#: Colours of text.
INK, SOFT = "#1d1f23", "#62666d"
_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10.0,
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": "#c9c9c4",
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11.0,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "svg.fonttype": "none",
    "svg.hashsalt": "dicenas",
}


def check_plot_path(path: Path, suffixes: Sequence[str] = SUFFIXES) -> None:
    """Check, before anything is computed, that a picture can be drawn into a file.

    Raises:
        ValueError: The suffix is none of ``suffixes``, or matplotlib is not installed.
        FileNotFoundError: The folder does not exist.
        IsADirectoryError: The path is a folder.
    """
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{path} should end in one of {', '.join(suffixes)}")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file in it")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder {path.parent} does not exist")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ValueError("pictures need matplotlib: pip install 'dicenas[plots]'") from error


def draw_figure(draw: Callable[[Any], None], path: Path, size_inches: tuple[float, float]) -> None:
    """Draw a figure, and write the file once it is complete; its suffix is the format."""
    atomic_write_bytes(path, render(draw, path.suffix.lower().removeprefix("."), size_inches))


def render(draw: Callable[[Any], None], form: str, size_inches: tuple[float, float]) -> bytes:
    """Return a figure as a file of the format ``png``, ``svg`` or ``pdf``.

    Args:
        draw: Draws into a figure of matplotlib.
        form: The format.
        size_inches: Width and height.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=size_inches, facecolor="white")
        draw(figure)
        buffer = io.BytesIO()
        # Without a date in it, the same numbers give the same file.
        metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form)
        figure.savefig(buffer, format=form, dpi=150, metadata=metadata)
    return buffer.getvalue()

"""A picture of what searches find for their budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["draw"]

#: So many of the best methods are drawn beside random search.
_DRAWN = 6


def draw(path: Path, curves: Mapping[str, Sequence[Any]], rows: Sequence[Mapping[str, Any]], budget: int) -> None:
    """Draw the mean hypervolume of the best methods and of random search along the budget.

    Args:
        path: The file, of a type that matplotlib writes.
        curves: Hypervolumes at equal steps of the budget, of each search of each method.
        rows: The methods, best first.
        budget: Trained epochs.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    names = [row["method"] for row in rows if row["method"] != "random"][:_DRAWN]
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for number, name in enumerate([*names, "random"]):
        volumes = 100 * np.array([volume for volume, _, _ in curves[name]])
        spent = budget * np.arange(1, volumes.shape[1] + 1) / volumes.shape[1]
        mean, error = volumes.mean(0), 1.96 * volumes.std(0, ddof=1) / len(volumes) ** 0.5
        color = "black" if name == "random" else f"C{number}"
        axes.plot(spent, mean, color=color, label=name)
        axes.fill_between(spent, mean - error, mean + error, color=color, alpha=0.15, linewidth=0)
    axes.axhline(100 * np.mean([volume[-1] for volume, _, _ in curves["random"]]), color="black", linestyle=":")
    axes.set(xlabel="trained epochs", ylabel="hypervolume, % of the true front's", xlim=(0, budget))
    axes.legend(loc="lower right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)

"""What a search is for: names of metrics, and which way each is better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dicenas.pareto import DIRECTIONS, Direction, pareto_front
from dicenas.spelling import did_you_mean

__all__ = ["parse_objectives"]


def parse_objectives(
    objectives: Sequence[str] | Mapping[str, Direction], directions: Sequence[Direction] | None = None
) -> dict[str, Direction]:
    """Return the direction of each objective.

    Args:
        objectives: Names, or directions by name.
        directions: Directions of the names, in their order; those of well-known metrics need not be given.

    Raises:
        ValueError: There is no objective, one is given twice, or a direction is unknown.
    """
    if isinstance(objectives, str):
        raise ValueError(f"objectives {objectives!r} should be a sequence of names: ({objectives!r},)")
    names = list(objectives)
    if not names or len(set(names)) != len(names):
        raise ValueError(f"objectives {names} should be one name or more, each given once")
    if isinstance(objectives, Mapping):
        if directions is not None:
            raise ValueError("objectives is a mapping that gives directions already; leave directions out")
        chosen = dict(objectives)
    elif directions is not None:
        if len(directions) != len(names):
            raise ValueError(f"{len(names)} objectives and {len(directions)} directions")
        chosen = dict(zip(names, directions, strict=True))
    else:
        for name in names:
            if name not in DIRECTIONS:
                raise ValueError(
                    f"unknown objective {name!r}{did_you_mean(name, DIRECTIONS)} (known: {', '.join(DIRECTIONS)}); "
                    f"give a metric of your own with its direction: {{{name!r}: 'maximize'}}"
                )
        chosen = {name: DIRECTIONS[name] for name in names}
    pareto_front([], chosen)  # checks the directions
    return chosen

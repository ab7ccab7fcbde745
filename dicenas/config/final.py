"""The ``final:`` section: what is trained for real once a search has its trials."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dicenas.config import values
from dicenas.config.section import as_section, read_values
from dicenas.config.values import Reader
from dicenas.training import Recipe, read_recipe

__all__ = ["FinalConfig", "final_section", "read_final"]


@dataclass(frozen=True)
class FinalConfig:
    """The final training; the ``final:`` section.

    Attributes:
        recipe: The name of a recipe, or fields of one; :attr:`training` is the recipe itself.
        train: ``"top3"`` for so many of the Pareto front, the most accurate first; ``"best"`` for the one that is
            best in the first objective; or the number of a trial.
        data: What to train on, as ``dicenas train --data`` takes it; ``None`` for all images of the search's data.
    """

    recipe: str | Mapping[str, Any]
    train: str | int = "best"
    data: str | None = None

    @property
    def training(self) -> Recipe:
        """The recipe."""
        return read_recipe(self.recipe)


def _train(value: Any) -> str | int:
    if isinstance(value, str) and re.fullmatch("top[1-9][0-9]*", value):
        return value
    try:
        return values.trial(value)
    except ValueError as error:
        raise ValueError(f"top1, top2, ..., {error}") from None


def _recipe(value: Any) -> str | Mapping[str, Any]:
    if not isinstance(value, str | Mapping):
        raise ValueError("the name of a recipe, or a mapping of its fields")
    if isinstance(value, Mapping) and "image_size" in value:
        raise ValueError("no image_size: networks are trained at their own")
    try:
        read_recipe(value)
    except ValueError as error:
        problems = str(error).removeprefix("the recipe is wrong:\n")
        raise ValueError(f"a recipe: {'; '.join(problems.splitlines())}") from None
    return value


def _data(value: Any) -> str:
    given = values.path(value)
    if given != "digits" and not Path(given).expanduser().exists():
        raise ValueError("'digits', or a folder of images, which has to be there")
    return given


_READERS: dict[str, Reader] = {"train": _train, "recipe": _recipe, "data": values.optional(_data)}


def read_final(given: Any, searches_images: bool, problems: list[str]) -> FinalConfig | None:
    """Read the section; what is wrong in it is reported.

    Args:
        given: The section, as YAML gives it; ``None`` where nothing is trained.
        searches_images: Whether the search has data of its own.
        problems: Takes a line for each mistake.
    """
    if given is None:
        return None
    section = as_section("final", given, tuple(_READERS), problems)
    config = read_values(FinalConfig, "final", section, _READERS, problems)
    if not searches_images and section.get("data") is None:
        problems.append("final.data is missing: a table is replayed without images, so say what to train on")
    return config


def final_section(config: FinalConfig) -> dict[str, Any]:
    """Return the section as plain data, without what is only told where it is wanted."""
    recipe = config.recipe if isinstance(config.recipe, str) else dict(config.recipe)
    return {"train": config.train, "recipe": recipe, **({} if config.data is None else {"data": config.data})}

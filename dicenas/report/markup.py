"""Building HTML and SVG as a tree, so that every text is escaped by construction."""

from __future__ import annotations

from typing import TypeAlias
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

__all__ = ["Child", "Element", "element", "to_html"]

Child: TypeAlias = Element | str | None


def element(tag: str, *children: Child, **attributes: object) -> Element:
    """Return an element with its children: elements, texts, or None for nothing.

    Attributes are written with ``_`` for ``-`` and without a trailing ``_`` (``class_="front"``,
    ``stroke_width=2``); those that are None are left out.
    """
    names = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
    result = Element(tag, {name: _attribute(value) for name, value in names.items() if value is not None})
    for child in children:
        if isinstance(child, Element):
            result.append(child)
        elif child is not None and len(result):
            result[-1].tail = (result[-1].tail or "") + child
        elif child is not None:
            result.text = (result.text or "") + child
    return result


def to_html(root: Element) -> str:
    """Return the whole document as text."""
    return "<!DOCTYPE html>\n" + ElementTree.tostring(root, encoding="unicode", method="html") + "\n"


def _attribute(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)

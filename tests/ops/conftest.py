"""A registry to add ops to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import dicenas.ops.registry
from dicenas.ops import candidate_cost


@pytest.fixture
def scratch_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A copy of the registry for one test; what the test registers goes with it."""
    monkeypatch.setattr(dicenas.ops.registry, "_REGISTRY", dict(dicenas.ops.registry._REGISTRY))
    yield
    candidate_cost.cache_clear()

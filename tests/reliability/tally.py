"""What the tests of this folder count, and what their counts are called where they are printed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

#: Takes counts by their names in :data:`COUNTED`, before the test asserts them.
Tally: TypeAlias = Callable[..., None]

COUNTED = {
    "kills": "kills",
    "lost": "finished trials lost",
    "again": "finished trials trained again",
    "damaged": "files cut off or changed",
    "torn": "torn files read as good",
}

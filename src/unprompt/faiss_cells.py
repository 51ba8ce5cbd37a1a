"""Faiss, and how many cells an inverted-file index of it gets."""

from __future__ import annotations

import math
from typing import Any

from unprompt.errors import MissingExtraError

ROWS_PER_CELL = 39
"""Rows that Faiss needs to train a cell."""
_MOST_CELLS = 65_536


def import_faiss() -> Any:
    """Faiss.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise MissingExtraError("faiss", "data") from error
    return faiss


def cells_for(count: int) -> int:
    """Cells for so many rows: 4·√n (Faiss, 'Guidelines to choose an index'), if they suffice."""
    return max(1, min(int(4 * math.sqrt(count)), count // ROWS_PER_CELL, _MOST_CELLS))

"""Import of Faiss, and the number of cells of its inverted-file indexes."""

from __future__ import annotations

import math
from typing import Any

from unprompt.errors import MissingExtraError

ROWS_PER_CELL = 39
"""Rows that Faiss needs to train one cell."""
_MOST_CELLS = 65_536


def import_faiss() -> Any:
    """The module ``faiss``.

    Raises:
        MissingExtraError: Faiss is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise MissingExtraError("faiss", "data") from error
    return faiss


def cells_for(count: int) -> int:
    """Number of cells for ``count`` rows: 4·√n (Faiss, 'Guidelines to choose an index').

    Few rows get fewer cells, so that each cell has `ROWS_PER_CELL` rows to train on.
    """
    return max(1, min(int(4 * math.sqrt(count)), count // ROWS_PER_CELL, _MOST_CELLS))

"""Faiss indexes that propose a large bank's rows, so that not every row has to be looked at.

They propose; the bank's own int8 rows confirm, so the cosines that come out are those of exact
search, and only recall is at stake. Cells, after Faiss's 'Guidelines to choose an index': 4·√n.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from unprompt.errors import MissingExtraError, UnpromptError
from unprompt.files import atomic_path

INDEX_FILE = "index.faiss"
INDEXES = ("flat", "sq8", "pq")
PROBES = 32
"""Cells that are looked into for each embedding; more find more and take longer."""

_PER_CELL = 39  # rows that Faiss wants for each cell that it trains
_MOST_CELLS = 65_536
_TRAINED_ON = 16_384  # rows at least, where there are as many
_CODE_DIMS = 8  # dimensions that one byte of a product quantiser stands for


def cells_for(count: int) -> int:
    """How many cells an index of so many rows gets."""
    return max(1, min(int(4 * math.sqrt(count)), count // _PER_CELL, _MOST_CELLS))


def build_index(
    kind: str,
    rows: np.ndarray,
    blocks: Callable[[], Iterator[np.ndarray]],
    path: Path,
    seed: int = 0,
) -> None:
    """Train an index on a sample of the rows, add them all, and write it.

    Args:
        kind: ``sq8``: cells of int8 vectors; ``pq``: cells of product-quantised ones, an eighth of
            that.
        rows: the bank's int8 rows (n, dim), for the sample.
        blocks: gives all rows in order, in blocks of unit rows, float32.
        path: the file.
        seed: of the sample.

    Raises:
        MissingExtraError: faiss is not installed.
        UnpromptError: there are too few rows for a product quantiser, which has 256 centroids.
    """
    faiss = _faiss()
    count, dim = rows.shape
    if kind == "pq" and count < 256:
        raise UnpromptError(f"--index pq needs at least 256 prompts, not {count}; take flat")
    cells = cells_for(count)
    # "np": centroids in any order. faiss would spend most of the time on one in which codes can be
    # compared bit by bit (polysemous codes), which no search of ours does.
    code = "SQ8" if kind == "sq8" else f"PQ{max(1, dim // _CODE_DIMS)}np"
    index = faiss.index_factory(dim, f"IVF{cells},{code}", faiss.METRIC_INNER_PRODUCT)
    wanted = min(count, max(_PER_CELL * cells, _TRAINED_ON))
    sample = np.sort(np.random.default_rng(seed).choice(count, wanted, replace=False))
    drawn = np.asarray(rows[sample], dtype=np.float32)
    index.train(drawn / np.maximum(np.linalg.norm(drawn, axis=1, keepdims=True), 1e-12))
    for block in blocks():
        index.add(block)
    with atomic_path(path) as temporary:
        faiss.write_index(index, str(temporary))


def load_index(path: Path, probes: int = PROBES) -> Any:
    """The index of a bank, its cells memory-mapped; None where there is none, or no faiss.

    Raises:
        UnpromptError: the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        faiss = _faiss()
    except MissingExtraError:
        # Exact search over the rows gives the same answers, and all of them.
        return None
    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
    except RuntimeError as error:
        raise UnpromptError(f"{path} is damaged; build the bank again") from error
    index.nprobe = probes
    return index


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise MissingExtraError("faiss", "data") from error
    return faiss

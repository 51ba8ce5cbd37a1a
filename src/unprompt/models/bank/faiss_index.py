"""Faiss indexes of a large bank, so that a search need not read every row.

An index proposes rows, and the bank's own int8 rows give their cosines. So the cosines are those of
exact search, but some rows may be missed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from unprompt.errors import MissingExtraError, UnpromptError
from unprompt.faiss_cells import ROWS_PER_CELL, cells_for, import_faiss
from unprompt.files import atomic_path

INDEX_FILE = "index.faiss"
INDEXES = ("flat", "sq8", "pq")
PROBES = 32
"""Number of cells that are searched for each embedding; more cells find more and take longer."""

_TRAINED_ON = 16_384  # least number of rows, if the bank has as many
_CODE_DIMS = 8  # dimensions that one byte of a product quantiser stands for


def build_index(
    index_type: str,
    rows: np.ndarray,
    blocks: Callable[[], Iterator[np.ndarray]],
    path: Path,
    seed: int = 0,
) -> None:
    """Train an index on a sample of the rows, add all rows, and write it.

    Args:
        index_type: ``sq8`` has cells of int8 vectors; ``pq`` has cells of product-quantised
            vectors, an eighth of the size.
        rows: the bank's int8 rows (n, dim), for the sample.
        blocks: gives all rows in order, in blocks of unit rows, float32.
        path: the file.
        seed: seed of the sample.

    Raises:
        MissingExtraError: faiss is not installed.
        UnpromptError: there are too few rows for a product quantiser, which has 256 centroids.
    """
    faiss = import_faiss()
    count, dim = rows.shape
    if index_type == "pq" and count < 256:
        raise UnpromptError(f"--index pq needs at least 256 prompts, not {count}; take flat")
    cells = cells_for(count)
    # "np" leaves centroids in any order. By default Faiss spends most of its time ordering them for
    # codes that are compared bit by bit (polysemous codes), which no search here does.
    code = "SQ8" if index_type == "sq8" else f"PQ{max(1, dim // _CODE_DIMS)}np"
    index = faiss.index_factory(dim, f"IVF{cells},{code}", faiss.METRIC_INNER_PRODUCT)
    wanted = min(count, max(ROWS_PER_CELL * cells, _TRAINED_ON))
    places = np.sort(np.random.default_rng(seed).choice(count, wanted, replace=False))
    sample = np.asarray(rows[places], dtype=np.float32)
    index.train(sample / np.maximum(np.linalg.norm(sample, axis=1, keepdims=True), 1e-12))
    for block in blocks():
        index.add(block)
    with atomic_path(path) as temporary:
        faiss.write_index(index, str(temporary))


def load_index(path: Path, probes: int = PROBES) -> Any:
    """Load the index of a bank, memory-mapped; None if there is no such file or no faiss.

    Raises:
        UnpromptError: the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        faiss = import_faiss()
    except MissingExtraError:
        return None  # exact search needs no index and misses nothing
    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
    except RuntimeError as error:
        raise UnpromptError(f"{path} is damaged; build the bank again") from error
    index.nprobe = probes
    return index

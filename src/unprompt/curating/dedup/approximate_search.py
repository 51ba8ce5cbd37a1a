"""Approximate search for near-duplicates in very large sets with Faiss IVF, and its recall.

Every pair that it finds is confirmed exactly. An exact search of sampled rows measures its recall.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from unprompt.curating.dedup.exact_search import exact_search
from unprompt.curating.dedup.neighbour_pairs import (
    NeighbourPairs,
    check_threshold,
    collect,
    confirm,
)
from unprompt.faiss_cells import ROWS_PER_CELL, cells_for, import_faiss
from unprompt.progress import track

PROBES = 64
"""Cells searched for each row; more cells find more pairs and take longer."""

_BATCH = 4096
_GPU_NEIGHBOURS = 2048  # the most that Faiss returns on a GPU
_SAMPLE = 1000


def approximate_search(
    vectors: np.ndarray,
    threshold: float,
    probes: int = PROBES,
    seed: int = 0,
) -> Iterator[NeighbourPairs]:
    """Yield most pairs whose cosine is at least ``threshold``, and no other pairs.

    The number of cells is that of `cells_for`. If faiss-gpu is installed, the search runs on a GPU,
    which returns at most 2,048 neighbours of a row; rows with more are searched exactly.

    Args:
        vectors: unit rows, float32 of shape (n, dim).
        threshold: lowest cosine that counts, above 0 and at most 1.
        probes: cells searched for each row.
        seed: seed of the clustering into cells.

    Raises:
        MissingExtraError: faiss is not installed.
    """
    check_threshold(threshold)
    faiss = import_faiss()
    if not len(vectors):
        return
    index = _index(faiss, vectors, probes, seed)
    on_gpu = getattr(faiss, "get_num_gpus", int)() > 0
    if on_gpu:
        index = faiss.index_cpu_to_all_gpus(index)
    starts = range(0, len(vectors), _BATCH)
    for start in track(starts, "Searching near-duplicates"):
        rows = vectors[start : start + _BATCH]
        if on_gpu:
            first, second = _nearest(index, rows, vectors, threshold)
        else:
            bounds, _, second = index.range_search(rows, threshold - 1e-4)
            first = np.repeat(np.arange(len(rows)), np.diff(bounds).astype(np.int64))
        first = first + start
        upper = first < second
        found = confirm(vectors, vectors, first[upper], second[upper], threshold)
        yield found.in_order()


def _index(faiss: Any, vectors: np.ndarray, probes: int, seed: int) -> Any:
    count, dim = vectors.shape
    cells = cells_for(count)
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, cells, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = seed + 1234  # Faiss's own default is 1234
    index.nprobe = min(probes, cells)
    rows = np.random.default_rng(seed).choice(
        count, min(count, cells * ROWS_PER_CELL), replace=False
    )
    index.train(vectors[np.sort(rows)])
    for start in range(0, count, _BATCH):
        index.add(vectors[start : start + _BATCH])
    return index


def _nearest(
    index: Any, rows: np.ndarray, vectors: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours found on a GPU; rows with more neighbours than it returns are searched exactly."""
    count = min(_GPU_NEIGHBOURS, len(vectors))
    scores, near = index.search(rows, count)
    hit = (scores >= threshold - 1e-4) & (near >= 0)
    full = np.flatnonzero(hit.all(1)) if count < len(vectors) else np.empty(0, np.int64)
    hit[full] = False
    row, place = np.nonzero(hit)
    exact = collect(exact_search(rows[full], threshold, vectors))
    return (
        np.concatenate([row, full[exact.first]]),
        np.concatenate([near[row, place], exact.second]),
    )


def measure_recall(
    vectors: np.ndarray,
    threshold: float,
    found: NeighbourPairs,
    sample: int = _SAMPLE,
    seed: int = 0,
) -> float:
    """Share of the true pairs of sampled rows that a search found; 1 if there are no such pairs.

    Args:
        vectors: unit rows, float32 of shape (n, dim).
        threshold: the threshold of the search.
        found: the pairs that the search found.
        sample: number of rows to compare exactly with all others.
        seed: seed that selects the rows.
    """
    count = len(vectors)
    rows = np.random.default_rng(seed).choice(count, min(sample, count), replace=False)
    true = collect(exact_search(vectors[rows], threshold, vectors))
    first, second = rows[true.first], true.second.astype(np.int64)
    other = first != second
    low, high = np.minimum(first, second)[other], np.maximum(first, second)[other]
    wanted = np.unique(low * count + high)
    if not len(wanted):
        return 1.0
    have = found.first.astype(np.int64) * count + found.second
    return float(np.isin(wanted, have).mean())

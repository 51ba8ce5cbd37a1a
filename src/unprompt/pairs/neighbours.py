"""Exact search for all pairs of prompt embeddings whose cosine reaches a threshold.

Two steps: fast matrix products find every pair that could reach the threshold, with a margin that
covers their rounding; then each candidate's cosine is computed again in an order of operations
that is fixed. The second step alone decides, so the answer does not depend on block size, threads
or device.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from unprompt.errors import TableError, UnpromptError
from unprompt.progress import track

BLOCK_SIZE = 2048
"""Rows of one block: two blocks of embeddings and their scores are held at a time (23 MB)."""

MAX_PAIRS = 200_000_000
"""Pairs a search may hold at once (12 bytes each); beyond, the threshold is too low to be kept."""

_CONFIRM_ROWS = 4096


@dataclass(frozen=True)
class NeighbourPairs:
    """Pairs of rows whose cosine reaches the threshold, sorted by ``first``, then ``second``.

    Attributes:
        first: int32 of shape (m,); rows of the left set.
        second: int32 of shape (m,); rows of the right set. Within one set ``first < second``.
        cosine: float32 of shape (m,), in -1 to 1.
    """

    first: np.ndarray
    second: np.ndarray
    cosine: np.ndarray

    def __len__(self) -> int:
        return len(self.first)

    def at_least(self, threshold: float) -> NeighbourPairs:
        """The pairs whose cosine reaches a higher threshold."""
        mask = self.cosine >= np.float32(threshold)
        return NeighbourPairs(self.first[mask], self.second[mask], self.cosine[mask])

    @classmethod
    def concatenate(cls, chunks: Iterable[NeighbourPairs]) -> NeighbourPairs:
        """Join chunks in their order."""
        chunks = [*chunks, cls(*(np.empty(0, kind) for kind in (np.int32, np.int32, np.float32)))]
        return cls(
            np.concatenate([chunk.first for chunk in chunks]),
            np.concatenate([chunk.second for chunk in chunks]),
            np.concatenate([chunk.cosine for chunk in chunks]),
        )


def normalise(embeddings: np.ndarray, name: str = "embeddings") -> np.ndarray:
    """Scale rows to unit length, with the same bits on every machine.

    Args:
        embeddings: float array of shape (n, dim).
        name: what errors call the array.

    Returns:
        float32 of shape (n, dim), C-contiguous.

    Raises:
        TableError: not two-dimensional, or a row is zero or holds NaN or infinity; names it.
    """
    if embeddings.ndim != 2 or embeddings.shape[1] == 0:
        raise TableError(f"{name}: embeddings must be of shape (n, dim), not {embeddings.shape}")
    unit = np.empty(embeddings.shape, np.float32)
    for start in range(0, len(embeddings), _CONFIRM_ROWS):
        rows = embeddings[start : start + _CONFIRM_ROWS].astype(np.float64)
        length = np.sqrt(_sum_in_fixed_order(rows * rows))
        bad = ~(np.isfinite(length) & (length > 0))
        if bad.any():
            row = start + int(bad.argmax())
            raise TableError(
                f"{name}, row {row + 1}: the embedding is zero or not finite; embed it again"
            )
        # Adding zero turns -0.0 into 0.0, so that equal rows have equal bytes.
        unit[start : start + _CONFIRM_ROWS] = rows / length[:, None] + 0.0
    return unit


def cosines(left: np.ndarray, right: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Cosines of ``left[i]`` and ``right[j]``, with the same bits on every machine.

    Products of two float32 are exact in float64; they are added by halves in float64, each
    addition element by element, and the sum is rounded to float32.

    Args:
        left: unit rows, float32 of shape (n, dim).
        right: unit rows, float32 of shape (m, dim).
        i: rows of ``left``, integers of shape (k,).
        j: rows of ``right``, integers of shape (k,).

    Returns:
        float32 of shape (k,).
    """
    result = np.empty(len(i), np.float32)
    for start in range(0, len(i), _CONFIRM_ROWS):
        part = slice(start, start + _CONFIRM_ROWS)
        products = np.multiply(left[i[part]], right[j[part]], dtype=np.float64)
        result[part] = _sum_in_fixed_order(products)
    return result


def _sum_in_fixed_order(values: np.ndarray) -> np.ndarray:
    """Sums of the rows of a float64 array, which is overwritten."""
    width = values.shape[1]
    while width > 1:
        half = width // 2
        values[:, :half] += values[:, width - half : width]
        width -= half
    return values[:, 0]


def rounding_margin(dim: int) -> float:
    """How far a float32 dot product of two unit vectors can be from the true one.

    At most ``dim`` units of 2^-24, however the additions are ordered (Higham, Accuracy and
    Stability of Numerical Algorithms, section 3.1), and a little for vectors of nearly unit length
    and for the rounding of the threshold.
    """
    return (dim + 8) * 2.0**-24


def search(
    embeddings: np.ndarray,
    threshold: float,
    others: np.ndarray | None = None,
    block_size: int = BLOCK_SIZE,
    progress: bool = False,
) -> Iterator[NeighbourPairs]:
    """Yield all pairs with cosine at or above ``threshold``, exactly, block row by block row.

    Args:
        embeddings: unit rows as from `normalise`, float32 of shape (n, dim).
        threshold: lowest cosine that counts, in 0 to 1.
        others: a second set of shape (m, dim); without it each pair within ``embeddings`` is
            given once, with ``first < second``.
        block_size: rows multiplied at a time; bounds the memory, never changes the answer.
        progress: show a bar.

    Yields:
        Chunks which, joined in order, are sorted.
    """
    check_threshold(threshold)
    right = embeddings if others is None else others
    least = np.float32(threshold - rounding_margin(embeddings.shape[1]))
    starts = range(0, len(embeddings), block_size)
    for top in track(starts, "searching near-duplicates", show=progress):
        rows = embeddings[top : top + block_size]
        found: list[tuple[np.ndarray, np.ndarray]] = []
        for left in range(top if others is None else 0, len(right), block_size):
            scores = rows @ right[left : left + block_size].T
            i, j = np.nonzero(scores >= least)
            found.append((i + top, j + left))
        first = np.concatenate([i for i, _ in found] or [np.empty(0, np.int64)])
        second = np.concatenate([j for _, j in found] or [np.empty(0, np.int64)])
        if others is None:
            upper = first < second
            first, second = first[upper], second[upper]
        yield confirm(embeddings, right, first, second, threshold)


def highest(
    left: np.ndarray, right: np.ndarray, block_size: int = BLOCK_SIZE
) -> tuple[int, int, float]:
    """The pair of a row of ``left`` and a row of ``right`` with the highest cosine.

    Args:
        left: unit rows, float32 of shape (n, dim).
        right: unit rows, float32 of shape (m, dim).
        block_size: rows multiplied at a time.

    Returns:
        Row of ``left``, row of ``right`` and their cosine; of equal pairs the first in row order.
        (-1, -1, NaN) where a set is empty.
    """
    margin = np.float32(2 * rounding_margin(left.shape[1]))
    best = np.float32(-2)
    held: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for top in range(0, len(left), block_size):
        for start in range(0, len(right), block_size):
            scores = left[top : top + block_size] @ right[start : start + block_size].T
            if (peak := scores.max()) >= best - margin:
                best = max(best, peak)
                i, j = np.nonzero(scores >= best - margin)
                held.append((i + top, j + start, scores[i, j]))
    if not held:
        return -1, -1, float("nan")
    i, j, score = (np.concatenate(parts) for parts in zip(*held, strict=True))
    near = score >= best - margin
    i, j = i[near], j[near]
    cosine = cosines(left, right, i, j)
    order = np.lexsort((j, i, -cosine))[0]
    return int(i[order]), int(j[order]), float(cosine[order])


def confirm(
    left: np.ndarray, right: np.ndarray, first: np.ndarray, second: np.ndarray, threshold: float
) -> NeighbourPairs:
    """Of candidate pairs those whose cosine, as `cosines` gives it, reaches the threshold."""
    cosine = cosines(left, right, first, second)
    mask = cosine >= np.float32(threshold)
    first, second, cosine = first[mask], second[mask], cosine[mask]
    order = np.lexsort((second, first))
    return NeighbourPairs(
        first[order].astype(np.int32), second[order].astype(np.int32), cosine[order]
    )


def collect(chunks: Iterable[NeighbourPairs], max_pairs: int = MAX_PAIRS) -> NeighbourPairs:
    """Join the chunks of a search.

    Raises:
        UnpromptError: there are more than ``max_pairs``.
    """
    held: list[NeighbourPairs] = []
    count = 0
    for chunk in chunks:
        held.append(chunk)
        count += len(chunk)
        if count > max_pairs:
            raise UnpromptError(
                f"more than {max_pairs:,} pairs reach the threshold, and each takes 12 bytes; "
                "raise the threshold, or max_pairs where there is memory for it"
            )
    return NeighbourPairs.concatenate(held)


def check_threshold(threshold: float) -> None:
    """Refuse a threshold that is no cosine of near-duplicates.

    Raises:
        UnpromptError: not above 0 and at most 1.
    """
    if not 0 < threshold <= 1:
        raise UnpromptError(f"the threshold must be above 0 and at most 1, not {threshold}")


def components(count: int, chunks: Iterable[NeighbourPairs]) -> np.ndarray:
    """Connected components of the rows 0 to ``count`` - 1 under chunks of pairs.

    Chunks are read once and not kept, so a low threshold with very many pairs takes no memory.

    Returns:
        int64 of shape (count,): for each row the smallest row of its component.
    """
    label = np.arange(count)
    for chunk in chunks:
        first, second = chunk.first, chunk.second
        while len(first):
            a, b = label[first], label[second]
            apart = a != b
            if not apart.any():
                break
            first, second, a, b = first[apart], second[apart], a[apart], b[apart]
            np.minimum.at(label, np.maximum(a, b), np.minimum(a, b))
            while True:
                further = label[label]
                if np.array_equal(further, label):
                    break
                label = further
    return label

"""Pairs of near-duplicates: the final threshold test (`confirm`), exact cosines, and groups.

The searches find candidates; `confirm` alone decides which of them are near-duplicates. It computes
the cosine of a pair only from its two rows, in a fixed order of operations. So block size, threads
and device do not change the result.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from unprompt.errors import TableError, UnpromptError

MAX_PAIRS = 200_000_000
"""Greatest number of pairs of a search, 12 bytes each; more mean that the threshold is too low."""

_EDGES = 4_000_000
"""Pairs that `NeighbourPairs.chunks` yields at a time, to limit the memory."""

_CHUNK = 128
"""Rows whose products are held at a time: few enough for the processor's cache."""


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

    def chunks(self) -> Iterator[NeighbourPairs]:
        """The same pairs in chunks."""
        for start in range(0, len(self), _EDGES):
            part = slice(start, start + _EDGES)
            yield NeighbourPairs(self.first[part], self.second[part], self.cosine[part])

    def in_order(self) -> NeighbourPairs:
        """The same pairs, sorted."""
        order = np.lexsort((self.second, self.first))
        return NeighbourPairs(self.first[order], self.second[order], self.cosine[order])

    @classmethod
    def concatenate(cls, chunks: Iterable[NeighbourPairs]) -> NeighbourPairs:
        """Join chunks in their order."""
        chunks = [*chunks, cls(*(np.empty(0, dtype) for dtype in (np.int32, np.int32, np.float32)))]
        return cls(
            np.concatenate([chunk.first for chunk in chunks]),
            np.concatenate([chunk.second for chunk in chunks]),
            np.concatenate([chunk.cosine for chunk in chunks]),
        )


def normalise(
    embeddings: np.ndarray, name: str = "embeddings", rows: np.ndarray | None = None
) -> np.ndarray:
    """Scale rows to unit length.

    Args:
        embeddings: float array of shape (n, dim).
        name: name of the array in errors.
        rows: only these rows, integers of shape (n',).

    Returns:
        float32 of shape (n, dim), or (n', dim), C-contiguous.

    Raises:
        TableError: the array is not two-dimensional, or a row (it is named) is zero or not finite.
    """
    if embeddings.ndim != 2 or embeddings.shape[1] == 0:
        raise TableError(f"{name}: embeddings must be of shape (n, dim), not {embeddings.shape}")
    count = len(embeddings) if rows is None else len(rows)
    unit = np.empty((count, embeddings.shape[1]), np.float32)
    for start in range(0, count, _CHUNK):
        part = slice(start, start + _CHUNK)
        values = embeddings[part if rows is None else rows[part]].astype(np.float64)
        length = np.sqrt((values * values).sum(1))
        bad = ~(np.isfinite(length) & (length > 0))
        if bad.any():
            row = start + int(bad.argmax())
            row = row if rows is None else int(rows[row])
            raise TableError(
                f"{name}, row {row + 1}: the embedding is zero or not finite; encode it again"
            )
        # Adding zero turns -0.0 into 0.0, so that equal rows have equal bytes.
        unit[part] = values / length[:, None] + 0.0
    return unit


def cosines(left: np.ndarray, right: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Cosines of ``left[i]`` and ``right[j]``; a pair's cosine does not depend on other pairs.

    Products of two float32 numbers are exact in float64. numpy adds the products of a row pairwise
    in float64, and the sum is rounded to float32.

    Args:
        left: unit rows, float32 of shape (n, dim).
        right: unit rows, float32 of shape (m, dim).
        i: rows of ``left``, integers of shape (k,).
        j: rows of ``right``, integers of shape (k,).

    Returns:
        float32 of shape (k,).
    """
    result = np.empty(len(i), np.float32)
    for start in range(0, len(i), _CHUNK):
        part = slice(start, start + _CHUNK)
        result[part] = _row_products(left[i[part]], right[j[part]])
    return result


def _row_products(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    return np.multiply(rows, others, dtype=np.float64).sum(1).astype(np.float32)


def rounding_margin(dim: int) -> float:
    """Largest error of a float32 dot product of two unit vectors.

    At most ``dim`` units of 2^-24 in any order of additions (Higham, Accuracy and Stability of
    Numerical Algorithms, section 3.1); 8 more cover vectors of nearly unit length and the rounding
    of the threshold.
    """
    return (dim + 8) * 2.0**-24


def confirm(
    left: np.ndarray, right: np.ndarray, first: np.ndarray, second: np.ndarray, threshold: float
) -> NeighbourPairs:
    """The candidate pairs whose cosine (see `cosines`) is at least the threshold."""
    least = np.float32(threshold - rounding_margin(left.shape[1]))
    cosine = np.full(len(first), -1, np.float32)
    for start in range(0, len(first), _CHUNK):
        part = slice(start, start + _CHUNK)
        rows, others = left[first[part]], right[second[part]]
        # A float32 product excludes most candidates; the others are computed again in float64.
        near = np.flatnonzero(np.einsum("ij,ij->i", rows, others) >= least)
        cosine[start + near] = _row_products(rows[near], others[near])
    mask = cosine >= np.float32(threshold)
    return NeighbourPairs(first[mask].astype(np.int32), second[mask].astype(np.int32), cosine[mask])


def collect(chunks: Iterable[NeighbourPairs], max_pairs: int = MAX_PAIRS) -> NeighbourPairs:
    """Join the chunks of a search.

    Raises:
        UnpromptError: there are more than ``max_pairs`` pairs.
    """
    held: list[NeighbourPairs] = []
    count = 0
    for chunk in chunks:
        held.append(chunk)
        count += len(chunk)
        if count > max_pairs:
            raise UnpromptError(
                f"more than {max_pairs:,} pairs reach the threshold, and each takes 12 bytes; "
                "raise the threshold, or max_pairs if there is memory for more"
            )
    return NeighbourPairs.concatenate(held)


def check_threshold(threshold: float) -> None:
    """Check that a threshold is above 0 and at most 1.

    Raises:
        UnpromptError: the threshold is out of this range.
    """
    if not 0 < threshold <= 1:
        raise UnpromptError(f"the threshold must be above 0 and at most 1, not {threshold}")


def components(count: int, chunks: Iterable[NeighbourPairs]) -> np.ndarray:
    """Connected components of the rows 0 to ``count`` - 1 whose edges are the pairs.

    Chunks are read once and not kept, so the memory does not grow with the number of pairs.

    Returns:
        int64 of shape (count,): the smallest row of each row's component.
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

"""Metrics of prompt embeddings, with honest intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Score:
    """A mean cosine and its bootstrap interval.

    Attributes:
        mean: mean cosine similarity, in [-1, 1].
        low: lower end of the 95 % interval.
        high: upper end.
        count: pairs it was taken over.
    """

    mean: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


def cosines(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Cosine similarity row by row.

    Args:
        predicted: float array of shape (n, dim), of any norm.
        true: likewise.

    Returns:
        float64 array of shape (n,); 0 where a row is all zeros, as the competition's metric has
        no other value for it.
    """
    predicted, true = predicted.astype(np.float64), true.astype(np.float64)
    norms = np.linalg.norm(predicted, axis=1) * np.linalg.norm(true, axis=1)
    return np.einsum("ij,ij->i", predicted, true) / np.where(norms == 0, 1, norms)


def mean_with_interval(
    values: np.ndarray, groups: np.ndarray | None = None, seed: int = 0
) -> Score:
    """Mean and percentile-bootstrap 95 % interval.

    Near-duplicate prompts are not independent, so whole groups are resampled where they are
    known (the cluster bootstrap; Davison and Hinkley 1997, section 3.8): with few groups the
    interval is honestly wide.

    Args:
        values: one value a pair, shape (n,), n > 0.
        groups: group of each pair, shape (n,); each pair is its own group by default.
        seed: of the resampling.
    """
    if groups is None:
        groups = np.arange(len(values))
    _, members = np.unique(groups, return_inverse=True)
    sums = np.bincount(members, weights=values)
    counts = np.bincount(members)
    random = np.random.default_rng(seed)
    means = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        drawn = random.integers(len(sums), size=len(sums))
        means[i] = sums[drawn].sum() / counts[drawn].sum()
    low, high = np.percentile(means, [2.5, 97.5])
    return Score(float(values.mean()), float(low), float(high), len(values))

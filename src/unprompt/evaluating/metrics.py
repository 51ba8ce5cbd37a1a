"""Metrics of prompt embeddings: cosine, bootstrap intervals, recall at k, reliability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unprompt.models.bank.bank import unit

RESAMPLES = 2000
PERCENTILES = (5, 25, 50, 75, 95)
RANKS = (1, 5, 10)
_BLOCK = 1024
_SMALLEST_BIN = 10


@dataclass(frozen=True, slots=True)
class Score:
    """A mean cosine and its bootstrap interval.

    Attributes:
        mean: mean cosine similarity, in [-1, 1].
        low: lower end of the 95 % interval.
        high: upper end of the 95 % interval.
        count: number of pairs.
    """

    mean: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"

    def to_dict(self) -> dict[str, Any]:
        """The score, ready for JSON."""
        return {
            "cosine": round(self.mean, 4),
            "interval": [round(self.low, 4), round(self.high, 4)],
            "pairs": self.count,
        }


def cosines(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Cosine similarity, row by row.

    Args:
        predicted: float array of shape (n, dim), of any norm.
        true: float array of shape (n, dim), of any norm.

    Returns:
        float64 array of shape (n,); 0 for a row of zeros.
    """
    predicted, true = predicted.astype(np.float64), true.astype(np.float64)
    norms = np.linalg.norm(predicted, axis=1) * np.linalg.norm(true, axis=1)
    return np.einsum("ij,ij->i", predicted, true) / np.where(norms == 0, 1, norms)


def mean_with_interval(
    values: np.ndarray, groups: np.ndarray | None = None, seed: int = 0
) -> Score:
    """Mean and percentile-bootstrap 95 % interval.

    Near-duplicate prompts are not independent. If their groups are known, whole groups are
    resampled (the cluster bootstrap; Davison and Hinkley 1997, section 3.8), so that few groups
    give a wide interval.

    Args:
        values: one value for each pair, shape (n,), n > 0.
        groups: group of each pair, shape (n,). By default each pair is its own group.
        seed: seed of the resampling.
    """
    if groups is None:
        groups = np.arange(len(values))
    _, members = np.unique(groups, return_inverse=True)
    sums = np.bincount(members, weights=values)
    counts = np.bincount(members)
    random = np.random.default_rng(seed)
    means = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        sampled = random.integers(len(sums), size=len(sums))
        means[i] = sums[sampled].sum() / counts[sampled].sum()
    low, high = np.percentile(means, [2.5, 97.5])
    return Score(float(values.mean()), float(low), float(high), len(values))


def difference(
    values: np.ndarray, others: np.ndarray, groups: np.ndarray | None = None, seed: int = 0
) -> Score:
    """How much better one model is than another on the same pairs (paired bootstrap).

    Resampling the differences removes what is difficult for both models, so the interval is much
    narrower than the intervals of the two means.

    Args:
        values: cosines of one model, shape (n,), n > 0.
        others: cosines of the other model on the same pairs, shape (n,).
        groups: see `mean_with_interval`.
        seed: seed of the resampling.

    Returns:
        Mean of ``values - others`` and its interval. If the interval excludes 0, the models differ.
    """
    return mean_with_interval(values - others, groups, seed)


def recall_at_k(
    predicted: np.ndarray, true: np.ndarray, prompts: Sequence[str]
) -> dict[int, float]:
    """How often the true prompt is among the k prompts nearest to the prediction.

    The candidates are the distinct prompts of the pairs. A tie counts against the model, so that
    a constant prediction finds nothing.

    Args:
        predicted: float array of shape (n, dim), of any norm, n > 0.
        true: embeddings of the prompts, float array of shape (n, dim), of any norm.
        prompts: the n true prompts.

    Returns:
        For each k in `RANKS`, the share of pairs, in [0, 1], whose prompt is among the first k.
    """
    _, first, own = np.unique(
        np.array(prompts, dtype=object), return_index=True, return_inverse=True
    )
    candidates = unit(true[first].astype(np.float64))
    ranks = np.empty(len(predicted), dtype=np.int64)
    for start in range(0, len(predicted), _BLOCK):
        scores = unit(predicted[start : start + _BLOCK].astype(np.float64)) @ candidates.T
        own_scores = scores[np.arange(len(scores)), own[start : start + _BLOCK]]
        ranks[start : start + _BLOCK] = (scores >= own_scores[:, None]).sum(axis=1)
    return {k: float((ranks <= k).mean()) for k in RANKS}


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers with similar estimated scores.

    Attributes:
        estimated: mean of the estimated scores.
        actual: mean of the cosines to the true prompts.
        count: number of answers.
    """

    estimated: float
    actual: float
    count: int


def reliability(estimated: np.ndarray, actual: np.ndarray, bins: int = 10) -> list[Bin]:
    """Compare estimated scores with the actual ones, in bins of about equal counts.

    Answers with equal estimates are in one bin, so some bins are larger than others.

    Args:
        estimated: the model's estimates of its answers' cosines, shape (n,), n > 0.
        actual: the cosines of the answers to the true prompts, shape (n,).
        bins: most bins to make. Each has at least ten answers, if there are ten.

    Returns:
        The bins, lowest estimates first. If the model is calibrated, ``estimated`` and ``actual``
        are about equal.
    """
    order = np.argsort(estimated)
    ranked = estimated[order]
    smallest = max(_SMALLEST_BIN, len(order) // (2 * bins))
    starts = [0]
    for place in np.linspace(0, len(order), bins + 1).astype(int)[1:-1]:
        start = int(np.searchsorted(ranked, ranked[place]))
        if start - starts[-1] >= smallest and len(order) - start >= smallest:
            starts.append(start)
    return [
        Bin(float(estimated[rows].mean()), float(actual[rows].mean()), len(rows))
        for rows in np.split(order, starts[1:])
    ]


def furthest_bin(bins: Sequence[Bin]) -> Bin:
    """The bin whose estimate is furthest from the truth."""
    return max(bins, key=lambda one: abs(one.estimated - one.actual))

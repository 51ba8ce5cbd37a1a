"""The memory of a ``classes`` head, in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from unprompt.errors import UnpromptError
from unprompt.models.heads import Memory

PENALTY = 0.003
"""Of the kernel regression, as a multiple of the kernel's mean variance."""


@dataclass(frozen=True)
class _Projection:
    """Features to their first principal components: ``features @ weight.T + bias``."""

    weight: np.ndarray
    bias: np.ndarray


def fit_memory(
    memory: Memory,
    features: np.ndarray,
    missing: np.ndarray,
    sources: Sequence[str],
    seed: int = 0,
) -> None:
    """Choose a memory's landmarks and fit what they add.

    Landmarks are drawn from the pairs, and the regression weighs pairs, so that a source counts by
    the square root of its size: between pairs alike and sources alike.

    Args:
        memory: whose weights are set.
        features: of the backbone, float32 of shape (n, width).
        missing: what is to be added to the unit-norm prediction, shape (n, dim).
        sources: where each pair comes from.
        seed: of the choice.

    Raises:
        UnpromptError: there are fewer pairs than landmarks.
    """
    count = memory.answers.in_features
    if len(features) < count:
        raise UnpromptError(
            f"{len(features)} pairs are too few for {count} landmarks; lower model.head.landmarks"
        )
    _, which, sizes = np.unique(np.array(sources), return_inverse=True, return_counts=True)
    shares = 1 / np.sqrt(sizes[which])
    shares /= shares.sum()
    projection = _principal(features, shares, memory.DIM)
    with torch.no_grad():
        memory.project.weight.copy_(torch.from_numpy(projection.weight))
        memory.project.bias.copy_(torch.from_numpy(projection.bias))
        chosen = np.random.default_rng(seed).choice(len(features), count, False, shares)
        placed = memory.project(torch.from_numpy(features[chosen]))
        memory.landmarks.weight.copy_(torch.nn.functional.normalize(placed, dim=-1))
        kernel = memory.kernel(torch.from_numpy(features)).numpy().astype(np.float64)
        weighted = kernel * shares[:, None]
        inner = weighted.T @ kernel
        inner[np.diag_indices(count)] += PENALTY * np.trace(inner) / count
        answers = np.linalg.solve(inner, weighted.T @ missing)
        memory.answers.weight.copy_(torch.from_numpy(answers.T))


def _principal(features: np.ndarray, shares: np.ndarray, dim: int) -> _Projection:
    """The first ``dim`` principal components of standardised features; zeros beyond their width."""
    mean = shares @ features
    away = (features - mean).astype(np.float64)
    deviation = np.sqrt(shares @ away**2) + 1e-6
    away /= deviation
    _, directions = np.linalg.eigh((away * shares[:, None]).T @ away)
    weight = np.zeros((dim, features.shape[1]))
    first = directions[:, ::-1][:, :dim].T
    weight[: len(first)] = first / deviation
    return _Projection(weight, -weight @ mean)

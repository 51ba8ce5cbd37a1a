"""Fits the memory of a ``classes`` head in closed form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from unprompt.errors import UnpromptError
from unprompt.models.heads import Memory
from unprompt.training.head.ridge import HeadWeights

PENALTY = 0.003
"""Of the kernel regression, as a multiple of the kernel's mean variance."""


def fit_memory(
    memory: Memory,
    features: np.ndarray,
    missing: np.ndarray,
    sources: Sequence[str],
    seed: int = 0,
) -> None:
    """Choose a memory's landmarks and fit what they add.

    A source counts by the square root of its size, both in the choice of landmarks and in the
    regression: half-way between counting every pair alike and counting every source alike.

    Args:
        memory: its weights are set.
        features: of the backbone, float32 of shape (n, width).
        missing: what the memory should add to the unit-norm prediction, shape (n, dim).
        sources: source of each pair.
        seed: of the choice of landmarks.

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
    _principal(features, shares, memory.DIM).copy_to(memory.project)
    with torch.no_grad():
        chosen = np.random.default_rng(seed).choice(len(features), count, False, shares)
        placed = memory.project(torch.from_numpy(features[chosen]))
        memory.landmarks.weight.copy_(torch.nn.functional.normalize(placed, dim=-1))
        kernel = memory.kernel(torch.from_numpy(features)).numpy().astype(np.float64)
        weighted = kernel * shares[:, None]
        inner = weighted.T @ kernel
        inner[np.diag_indices(count)] += PENALTY * np.trace(inner) / count
        answers = np.linalg.solve(inner, weighted.T @ missing)
        memory.answers.weight.copy_(torch.from_numpy(answers.T))


def _principal(features: np.ndarray, shares: np.ndarray, dim: int) -> HeadWeights:
    """Features to their first ``dim`` principal components; zeros beyond the features' width."""
    mean = shares @ features
    away = (features - mean).astype(np.float64)
    deviation = np.sqrt(shares @ away**2) + 1e-6
    away /= deviation
    _, directions = np.linalg.eigh((away * shares[:, None]).T @ away)
    weight = np.zeros((dim, features.shape[1]))
    first = directions[:, ::-1][:, :dim].T
    weight[: len(first)] = first / deviation
    return HeadWeights(weight, -weight @ mean)

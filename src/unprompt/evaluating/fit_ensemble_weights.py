"""Fits how much each model of an ensemble counts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unprompt.evaluating.evaluation import Evaluation
from unprompt.models.bank.bank import unit

_STEPS = 2000
_RATE = 0.3


def fit_ensemble_weights(evaluations: Sequence[Evaluation]) -> np.ndarray:
    """Weights of models that maximise the mean cosine of their weighted mean direction.

    Gradient ascent on the logarithms of the weights, from equal weights, so that none is negative.
    The objective is smooth: there are few weights and hundreds of pairs.

    Args:
        evaluations: one a model, on the same held-out pairs, such as a validation split.

    Returns:
        float64 of shape (models,), sum 1.

    Raises:
        TableError: the models were evaluated on different pairs.
    """
    first = evaluations[0]
    for other in evaluations[1:]:
        other.check_same_pairs(first)
    directions = np.stack([unit(one.predicted.astype(np.float64)) for one in evaluations])
    true = unit(first.true.astype(np.float64))
    to_truth = np.einsum("mnd,nd->mn", directions, true)
    between = np.einsum("and,bnd->nab", directions, directions)
    logits = np.zeros(len(evaluations))
    for _ in range(_STEPS):
        weights = np.exp(logits) / np.exp(logits).sum()
        towards = between @ weights  # (n, models)
        length = np.sqrt(np.maximum(towards @ weights, 1e-12))
        cosine = (weights @ to_truth) / length
        slope = ((to_truth.T - (cosine / length)[:, None] * towards) / length[:, None]).mean(axis=0)
        logits += _RATE * len(weights) * weights * (slope - weights @ slope)
    return np.exp(logits) / np.exp(logits).sum()

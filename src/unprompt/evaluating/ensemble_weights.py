"""How much each model of an ensemble should count."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unprompt.errors import TableError
from unprompt.evaluating.evaluation import Evaluation
from unprompt.models.bank.bank import unit

_STEPS = 2000
_RATE = 0.3


def fit_weights(evaluations: Sequence[Evaluation]) -> np.ndarray:
    """Weights of models that maximise the mean cosine of their weighted mean direction.

    Gradient ascent on the logarithms of the weights from equal ones, so that none is negative; the
    objective of so few numbers over hundreds of pairs is smooth and is climbed in a moment.

    Args:
        evaluations: of each model on the same held-out pairs, as a validation split.

    Returns:
        float64 of shape (models,), sum 1.

    Raises:
        TableError: they were measured on different pairs.
    """
    first = evaluations[0]
    for other in evaluations[1:]:
        if other.pairs.column("id") != first.pairs.column("id"):
            raise TableError(
                f"{other.table}: {other.model.name} and {first.model.name} were not measured on "
                "the same pairs; some images could be decoded by one only"
            )
    directions = np.stack([unit(one.predicted.astype(np.float64)) for one in evaluations])
    true = unit(first.true.astype(np.float64))
    along = np.einsum("mnd,nd->mn", directions, true)  # cosine of each model
    between = np.einsum("and,bnd->nab", directions, directions)
    logits = np.zeros(len(evaluations))
    for _ in range(_STEPS):
        weights = np.exp(logits) / np.exp(logits).sum()
        towards = between @ weights  # (n, models)
        length = np.sqrt(np.maximum(towards @ weights, 1e-12))
        cosine = (weights @ along) / length
        slope = ((along.T - (cosine / length)[:, None] * towards) / length[:, None]).mean(axis=0)
        logits += _RATE * len(weights) * weights * (slope - weights @ slope)
    return np.exp(logits) / np.exp(logits).sum()

"""Make an ensemble, and fit the weights of its models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from unprompt.errors import UnpromptError
from unprompt.evaluating.evaluation import Evaluation, evaluate
from unprompt.models.bank.bank import unit
from unprompt.pairs.table import PairsTable, as_table
from unprompt.predicting.ensemble_model import EnsembleModel, save_ensemble
from unprompt.predicting.loading import load_model

_STEPS = 2000
_RATE = 0.3


def merge_answers(
    models: Sequence[str | Path],
    folder: str | Path | None = None,
    fit: PairsTable | str | Path | None = None,
    split: str | None = "val",
    batch_size: int = 16,
    device: str | None = None,
) -> EnsembleModel:
    """Make an ensemble, which answers with the weighted mean of its models' predictions.

    Args:
        models: two or more folders, hub ids or ``builtin``.
        folder: folder of the ensemble. It holds the names of the models, not copies of them.
        fit: pairs to fit the weights on, or the path of their table; by default the weights are
            equal.
        split: split of the table; None for all of it.
        batch_size: images in a batch.
        device: device of models that run on torch.

    Raises:
        ModelNotFoundError: a model does not exist.
        TableError: the split does not exist, or its pairs cannot be used.
        OutputError: the folder cannot be written.
        UnpromptError: there are fewer than two models, or their target encoders differ.
    """
    if len(models) < 2:
        raise UnpromptError("an ensemble needs two models or more")
    ensemble = EnsembleModel([load_model(name, device=device) for name in models])
    if fit is not None:
        table = as_table(fit)
        measured = [evaluate(one, table, split, batch_size=batch_size) for one in ensemble.models]
        ensemble.weights = fit_ensemble_weights(measured)
    if folder is not None:
        save_ensemble([*map(str, models)], ensemble.weights, folder)
    return ensemble


def fit_ensemble_weights(evaluations: Sequence[Evaluation]) -> np.ndarray:
    """Find the weights for which the ensemble has the highest mean cosine.

    Gradient ascent on the logarithms of the weights, so that none becomes negative. It starts at
    equal weights. The objective is smooth: there are few weights and hundreds of pairs.

    Args:
        evaluations: one for each model, on the same held-out pairs, such as a validation split.

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

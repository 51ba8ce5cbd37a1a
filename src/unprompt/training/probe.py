"""The first half of LP-FT: a linear head fitted on frozen features, in closed form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from unprompt.errors import RecipeError
from unprompt.evaluating.evaluation import Reference, reference_of
from unprompt.evaluating.metrics import cosines
from unprompt.models.embedder import Embedder
from unprompt.pairs.table import PairsTable
from unprompt.predicting.model import TorchModel

STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Ridge penalties that are tried, as multiples of the features' mean variance."""


def fit_head(
    model: Embedder, train: PairsTable, val: PairsTable, progress: bool = False
) -> tuple[float, float]:
    """Set the linear head by ridge regression from frozen features to prompt embeddings.

    Fine-tuning from a random head distorts pretrained features before the head has learned;
    starting from a fitted one does not (Kumar et al. 2022, arXiv 2202.10054, "LP-FT"). The
    penalty is the one of `STRENGTHS` that scores best on the validation split.

    Returns:
        The penalty, and the mean cosine on the validation split.

    Raises:
        RecipeError: the head is not linear.
    """
    layer = model.head[-1] if isinstance(model.head, nn.Sequential) else None
    if model.architecture.head.kind != "linear" or not isinstance(layer, nn.Linear):
        raise RecipeError("schedule.probe fits a linear head; set model.head.kind=linear")
    training = model.training
    frozen = TorchModel(model.eval(), "frozen backbone", Path())
    known = reference_of(frozen, train, progress=progress)
    unseen = reference_of(frozen, val, progress=progress)
    model.train(training)
    fits = [(strength, *ridge(known, strength)) for strength in STRENGTHS]
    scored = [
        (cosines(unseen.features @ weight.T + bias, unseen.embeddings).mean(), strength, row)
        for row, (strength, weight, bias) in enumerate(fits)
    ]
    score, strength, row = max(scored)
    _, weight, bias = fits[row]
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(bias))
    return strength, float(score)


def ridge(known: Reference, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights (dim, width) and bias (dim,) of the ridge regression on standardised features."""
    mean = known.features.mean(axis=0, dtype=np.float64)
    deviation = known.features.std(axis=0, dtype=np.float64) + 1e-6
    features = (known.features - mean) / deviation
    target = known.embeddings.mean(axis=0, dtype=np.float64)
    covariance = features.T @ features
    penalty = strength * np.trace(covariance) / len(covariance)
    covariance[np.diag_indices_from(covariance)] += penalty
    weight = np.linalg.solve(covariance, features.T @ (known.embeddings - target)).T / deviation
    return weight, target - weight @ mean

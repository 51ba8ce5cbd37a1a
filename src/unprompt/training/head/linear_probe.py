"""The first half of LP-FT: a head fitted on frozen features, which are computed once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import nn

from unprompt.errors import RecipeError
from unprompt.evaluating.metrics import cosines
from unprompt.models.bank.bank import unit
from unprompt.models.embedder import Embedder
from unprompt.models.heads import ClassesHead
from unprompt.pairs.table import PairsTable
from unprompt.training.data.features import Features, features_of
from unprompt.training.head.classes import fit_classes_head
from unprompt.training.head.gradient import train_head

STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Ridge penalties that are tried, as multiples of the features' mean variance."""


def fit_linear_probe(model: Embedder, train: PairsTable, val: PairsTable) -> tuple[float, float]:
    """Set the linear head by ridge regression from frozen features to prompt embeddings.

    Fine-tuning from a random head distorts pretrained features before the head has learned;
    starting from a fitted one does not (Kumar et al. 2022, arXiv 2202.10054, "LP-FT"). The
    penalty is the one of `STRENGTHS` that scores best on the validation split.

    A ``classes`` head is fitted by `fit_classes_head`; its penalty is chosen by leaving sources
    of the training split out.

    Returns:
        The penalty, and the mean cosine on the validation split.

    Raises:
        RecipeError: the head is neither linear nor of classes.
    """
    if isinstance(model.head, ClassesHead):
        known = features_of(model, train)
        rows = train.take(known.rows)
        sources = [source or "unknown" for source in rows.column("source")]
        fit = fit_classes_head(
            model.head, known.values, unit(rows.embeddings), sources, rows.prompts
        )
        return fit.penalty, _score(model, val, features_of(model, val))
    layer = model.head[-1] if isinstance(model.head, nn.Sequential) else None
    if model.architecture.head.type != "linear" or not isinstance(layer, nn.Linear):
        raise RecipeError("schedule.linear_probe fits a linear head; set model.head.type=linear")
    known = features_of(model, train)
    unseen = features_of(model, val)
    strength, score, weight, bias = best_ridge(
        known.values,
        train.embeddings[known.rows],
        unseen.values,
        val.embeddings[unseen.rows],
    )
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(bias))
    return strength, score


def fit_by_gradient(
    model: Embedder,
    train: PairsTable,
    val: PairsTable,
    epochs: int,
    batch_size: int = 1024,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> float:
    """Train the head, of whatever kind, by gradient on the frozen backbone's features.

    The first pass computes the features and keeps them on disk; every epoch reads those.

    Args:
        model: its head is changed in place, from what it is; it learns on a GPU where there is one.
        train: pairs with prompt embeddings.
        val: likewise, for the score.
        epochs: passes over the features.
        batch_size: pairs a step.
        learning_rate: peak.
        seed: of the order.

    Returns:
        The mean cosine on the validation split.
    """
    known = features_of(model, train)
    unseen = features_of(model, val)
    targets = unit(train.embeddings[known.rows])
    device = model.mean.device
    train_head(
        model.head.to("cuda" if torch.cuda.is_available() else device),
        known.values,
        targets,
        epochs,
        batch_size,
        learning_rate,
        seed=seed,
    )
    model.head.to(device)
    return _score(model, val, unseen)


def _score(model: Embedder, table: PairsTable, features: Features) -> float:
    """Mean cosine of what the head makes of features."""
    training = model.training
    with torch.inference_mode():
        values = torch.from_numpy(features.values).to(model.mean.device)
        predicted = model.eval().embed(values).cpu().numpy()
    model.train(training)
    return float(cosines(predicted, table.embeddings[features.rows]).mean())


def best_ridge(
    features: np.ndarray,
    embeddings: np.ndarray,
    unseen: np.ndarray,
    true: np.ndarray,
    noise: float = 0.0,
) -> tuple[float, float, np.ndarray, np.ndarray]:
    """The ridge regression whose penalty, of `STRENGTHS`, scores best on unseen rows.

    Args:
        features: as in `ridges`, and so are ``embeddings`` and ``noise``.
        embeddings: of the same rows.
        unseen: features of other rows, which get the same noise.
        true: their embeddings.
        noise: standard deviation of the features' noise.

    Returns:
        The penalty, the mean cosine on the unseen rows, weights and bias.
    """
    fits = list(ridges(features, embeddings, STRENGTHS, noise))
    if noise:
        unseen = unseen + np.random.default_rng(0).normal(scale=noise, size=unseen.shape)
    scores = [cosines(unseen @ weight.T + bias, true).mean() for weight, bias in fits]
    best = int(np.argmax(scores))
    return STRENGTHS[best], float(scores[best]), *fits[best]


def ridges(
    features: np.ndarray, embeddings: np.ndarray, strengths: Sequence[float], noise: float = 0.0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Ridge regressions on standardised features, one for each strength.

    Args:
        features: float array of shape (n, width).
        embeddings: float array of shape (n, dim).
        strengths: penalties, as multiples of the standardised features' mean variance.
        noise: standard deviation of Gaussian noise on the features, in expectation: training with
            noise is a penalty (Bishop 1995, Training with Noise is Equivalent to Tikhonov
            Regularization).

    Yields:
        Weights (dim, width) and bias (dim,), for features as they came.
    """
    mean = features.mean(axis=0, dtype=np.float64)
    deviation = features.std(axis=0, dtype=np.float64) + 1e-6
    features = (features - mean) / deviation
    target = embeddings.mean(axis=0, dtype=np.float64)
    covariance = features.T @ features
    common = features.T @ (embeddings - target)
    diagonal = np.diag_indices_from(covariance)
    variance = np.trace(covariance) / len(covariance)
    for strength in strengths:
        penalised = covariance.copy()
        penalised[diagonal] += strength * variance + len(features) * (noise / deviation) ** 2
        weight = np.linalg.solve(penalised, common).T / deviation
        yield weight, target - weight @ mean

"""Ridge regression in closed form, from means and covariances, for linear and classes heads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from unprompt.evaluating.metrics import cosines

PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Ridge penalties that `best_ridge` tries, as multiples of the features' mean variance."""


@dataclass(frozen=True)
class HeadWeights:
    """A fitted linear map from features to embeddings of any norm.

    Attributes:
        weight: shape (dim, width).
        bias: shape (dim,).
    """

    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Features (n, width) to embeddings (n, dim)."""
        predicted: np.ndarray = features @ self.weight.T + self.bias
        return predicted

    def copy_to(self, layer: nn.Linear) -> None:
        """Set the weights of a layer of this shape."""
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(self.weight))
            layer.bias.copy_(torch.from_numpy(self.bias))


@dataclass(frozen=True)
class Moments:
    """Means and covariances of features and targets; all that a linear regression needs of rows.

    Attributes:
        features: mean, shape (width,).
        targets: mean, shape (dim,).
        inner: covariance of the features, shape (width, width).
        cross: covariance of features and targets, shape (width, dim).
    """

    features: np.ndarray
    targets: np.ndarray
    inner: np.ndarray
    cross: np.ndarray

    @classmethod
    def of(
        cls, features: np.ndarray, targets: np.ndarray, shares: np.ndarray | None = None
    ) -> Moments:
        """The moments of rows.

        Args:
            features: float array of shape (n, width).
            targets: float array of shape (n, dim).
            shares: weight of each row, summing to 1; equal by default.
        """
        if shares is None:
            shares = np.full(len(features), 1 / len(features))
        mean, target, root = shares @ features, shares @ targets, np.sqrt(shares)[:, None]
        centred = features - mean
        centred *= root
        return cls(mean, target, centred.T @ centred, centred.T @ (root * (targets - target)))


def mixed(moments: Sequence[Moments]) -> Moments:
    """The moments of several sets of rows together, where each set counts alike."""
    features = np.mean([m.features for m in moments], axis=0)
    targets = np.mean([m.targets for m in moments], axis=0)
    inner, cross = np.zeros_like(moments[0].inner), np.zeros_like(moments[0].cross)
    for m in moments:
        inner += (m.inner + np.outer(m.features - features, m.features - features)) / len(moments)
        cross += (m.cross + np.outer(m.features - features, m.targets - targets)) / len(moments)
    return Moments(features, targets, inner, cross)


def ridges(
    moments: Moments, penalties: Sequence[float], noise: float = 0.0
) -> Iterator[HeadWeights]:
    """Ridge regressions on standardised features, one for each penalty.

    Args:
        moments: of the rows to fit.
        penalties: as multiples of the standardised features' mean variance.
        noise: standard deviation of Gaussian noise on the features, in expectation: training with
            noise is a penalty (Bishop 1995, Training with Noise is Equivalent to Tikhonov
            Regularization).

    Yields:
        Weights for features that are not standardised.
    """
    deviation = np.sqrt(np.diag(moments.inner)) + 1e-6
    inner = moments.inner / np.outer(deviation, deviation)
    cross = moments.cross / deviation[:, None]
    variance = np.trace(inner) / len(inner)
    for penalty in penalties:
        penalised = inner + np.diag(penalty * variance + (noise / deviation) ** 2)
        weight = np.linalg.solve(penalised, cross).T / deviation
        yield HeadWeights(weight, moments.targets - weight @ moments.features)


def best_ridge(
    features: np.ndarray,
    embeddings: np.ndarray,
    unseen: np.ndarray,
    true: np.ndarray,
    noise: float = 0.0,
) -> tuple[HeadWeights, float, float]:
    """The ridge regression whose penalty, of `PENALTIES`, scores best on other rows.

    Args:
        features: float array of shape (n, width).
        embeddings: of the same rows, shape (n, dim).
        unseen: features of other rows, which get the same noise.
        true: the embeddings of those.
        noise: as in `ridges`.

    Returns:
        The weights, their penalty, and their mean cosine on the other rows.
    """
    fits = list(ridges(Moments.of(features, embeddings), PENALTIES, noise))
    if noise:
        unseen = unseen + np.random.default_rng(0).normal(scale=noise, size=unseen.shape)
    scores = [float(cosines(fit(unseen), true).mean()) for fit in fits]
    best = int(np.argmax(scores))
    return fits[best], PENALTIES[best], scores[best]

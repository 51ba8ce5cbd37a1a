"""Heads: from the features of a backbone to the prompt embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from unprompt.errors import UnpromptError


@dataclass(frozen=True)
class HeadConfig:
    """The map from features to the prompt embedding.

    Attributes:
        type: ``linear``; ``mlp``: Linear → BatchNorm → ReLU → Linear, the wide head of the
            Kaggle competition's winner; or ``classes``: see `ClassesHead`.
        hidden: width of the ``mlp``'s hidden layer; the winner's was 16,384.
        dropout: probability of zeroing a feature before the head, in training.
        normalise: bring features to unit norm first; for contrastive models, which compare only
            directions. Not for ``classes``.
        classes: number of classes of a ``classes`` head.
        landmarks: number of training images that a ``classes`` head keeps; see `Memory`.
    """

    type: Literal["linear", "mlp", "classes"] = "linear"
    hidden: int = 16_384
    dropout: float = 0.0
    normalise: bool = False
    classes: int = 1000
    landmarks: int = 0


class UnitNorm(nn.Module):
    """Brings rows to unit norm."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features (batch, width) to the same of norm 1."""
        return F.normalize(features, dim=-1)


class Memory(nn.Module):
    """A correction for images like those of the training pairs, and near zero for other images.

    Kernel regression on landmarks (Nyström's method; Williams and Seeger 2001). Each landmark is
    the features of a training image, projected and brought to unit norm. Its weight is
    exp((cosine - 1) / `BANDWIDTH`).

    Args:
        width: width of the features.
        landmarks: number of landmarks.
        dim: width of the prompt embedding.
    """

    DIM = 128
    BANDWIDTH = 0.1

    def __init__(self, width: int, landmarks: int, dim: int):
        super().__init__()
        self.project = nn.Linear(width, self.DIM)
        self.landmarks = nn.Linear(self.DIM, landmarks, bias=False)
        self.answers = nn.Linear(landmarks, dim, bias=False)

    def kernel(self, features: torch.Tensor) -> torch.Tensor:
        """Weight of each landmark: (batch, width) to values in (0, 1] of (batch, landmarks)."""
        cosine = self.landmarks(F.normalize(self.project(features), dim=-1))
        return torch.exp((cosine - 1) / self.BANDWIDTH)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features (batch, width) to a correction of a unit-norm embedding, (batch, dim)."""
        added: torch.Tensor = self.answers(self.kernel(features))
        return added


class ClassesHead(nn.Module):
    """The sum of a classifier's content and a linear map.

    The content is ConSE, the convex combination of semantic embeddings (Norouzi et al. 2013,
    arXiv 1312.5650): the mean of the prompt embeddings of the classes' names, weighted by the
    probabilities of the classifier that the backbone was pretrained with. The classifier knows a
    thousand classes, even if the training pairs show few of them. So the linear map only has to
    learn the rest of a prompt, such as its style. With landmarks, a `Memory` corrects the sum for
    images like those of the training pairs.

    Args:
        config: numbers of classes and landmarks, and the probability of zeroing a feature before
            the linear map, in training.
        width: width of the features.
        dim: width of the prompt embedding.
    """

    def __init__(self, config: HeadConfig, width: int, dim: int):
        super().__init__()
        classes, dropout = config.classes, config.dropout
        self.classifier = nn.Linear(width, classes)
        self.names = nn.Linear(classes, dim, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width, dim)
        self.memory = Memory(width, config.landmarks, dim) if config.landmarks else None

    def content(self, features: torch.Tensor) -> torch.Tensor:
        """The classes' names weighted by their probabilities, (batch, dim)."""
        content: torch.Tensor = self.names(self.classifier(features).softmax(dim=-1))
        return content

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features (batch, width) to embeddings of any norm (batch, dim)."""
        general: torch.Tensor = self.content(features) + self.linear(self.dropout(features))
        if self.memory is None:
            return general
        return F.normalize(general, dim=-1) + self.memory(features)


def create_head(config: HeadConfig, width: int, dim: int) -> nn.Module:
    """Make a head with random weights.

    Args:
        config: type and sizes.
        width: width of the features.
        dim: width of the prompt embeddings.

    Raises:
        UnpromptError: there is no such type.
    """
    first = [UnitNorm()] if config.normalise else []
    if config.type == "linear":
        return nn.Sequential(*first, nn.Dropout(config.dropout), nn.Linear(width, dim))
    if config.type == "mlp":
        return nn.Sequential(
            *first,
            nn.Dropout(config.dropout),
            nn.Linear(width, config.hidden),
            nn.BatchNorm1d(config.hidden),
            nn.ReLU(),
            nn.Linear(config.hidden, dim),
        )
    if config.type == "classes":
        return ClassesHead(config, width, dim)
    raise UnpromptError(f"head '{config.type}': must be linear, mlp or classes")

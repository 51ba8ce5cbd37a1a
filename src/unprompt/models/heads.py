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
        normalise: bring features to unit norm first, as in the space that a contrastive model's
            images and texts share, where only directions mean something; not for ``classes``.
        classes: how many classes a ``classes`` head knows.
        landmarks: how many training pictures a ``classes`` head remembers; see `Memory`.
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
    """What to add near pictures that are known, and nothing far from them.

    Kernel regression on landmarks (Nyström's method; Williams and Seeger 2001): each landmark is a
    training picture's features, projected and brought to unit norm; its say falls with
    exp((cosine - 1) / `BANDWIDTH`), so that a picture of an unknown kind has none of it.

    Args:
        width: of the features.
        landmarks: how many.
        dim: of the prompt embedding.
    """

    DIM = 128
    BANDWIDTH = 0.1

    def __init__(self, width: int, landmarks: int, dim: int):
        super().__init__()
        self.project = nn.Linear(width, self.DIM)
        self.landmarks = nn.Linear(self.DIM, landmarks, bias=False)
        self.answers = nn.Linear(landmarks, dim, bias=False)

    def kernel(self, features: torch.Tensor) -> torch.Tensor:
        """How near each landmark is: (batch, width) to values in (0, 1] of (batch, landmarks)."""
        cosine = self.landmarks(F.normalize(self.project(features), dim=-1))
        return torch.exp((cosine - 1) / self.BANDWIDTH)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features (batch, width) to what to add to a unit-norm embedding, (batch, dim)."""
        added: torch.Tensor = self.answers(self.kernel(features))
        return added


class ClassesHead(nn.Module):
    """What the picture shows, said by a classifier, and how, said by a linear map; summed.

    The first is ConSE, the convex combination of semantic embeddings (Norouzi et al. 2013,
    arXiv 1312.5650): the classifier that the backbone was pretrained with gives a probability to
    each class, and these weigh the prompt embeddings of the classes' names. It knows the things of
    a thousand classes however few of them the training pairs show, so that what the linear map
    learns from these need only be the rest: the prompt's usual wording, style and manner. With
    landmarks, a `Memory` corrects the sum on pictures like those of the training pairs.

    Args:
        config: how many classes and landmarks, and the probability of zeroing a feature before
            the linear map, in training.
        width: of the features.
        dim: of the prompt embedding.
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
        """The classes' names weighed by their probabilities, (batch, dim)."""
        content: torch.Tensor = self.names(self.classifier(features).softmax(dim=-1))
        return content

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features (batch, width) to embeddings of any norm (batch, dim)."""
        general: torch.Tensor = self.content(features) + self.linear(self.dropout(features))
        if self.memory is None:
            return general
        return F.normalize(general, dim=-1) + self.memory(features)


def create_head(config: HeadConfig, width: int, dim: int) -> nn.Module:
    """A head with random weights.

    Args:
        config: which, and how large.
        width: of the features that it takes.
        dim: of the prompt embeddings that it gives, before they are brought to unit norm.

    Raises:
        UnpromptError: there is no such head.
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

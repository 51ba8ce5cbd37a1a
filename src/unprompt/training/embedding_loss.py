"""Losses between predicted and true prompt embeddings."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from unprompt.training.recipe_sections import Loss

_SAME = 1 - 1e-4
"""Cosine from which on two prompts count as equal: float16 embeddings of equal texts differ."""


def embedding_loss(predicted: torch.Tensor, true: torch.Tensor, settings: Loss) -> torch.Tensor:
    """The weighted sum of losses of a recipe.

    Args:
        predicted: the head's output before it is brought to unit norm, shape (batch, dim).
        true: unit-norm prompt embeddings, float32 of shape (batch, dim).
        settings: the weights.

    Returns:
        A float32 scalar.
    """
    predicted = predicted.float()
    directions = F.normalize(predicted, dim=-1)
    loss = predicted.new_zeros(())
    if settings.cosine:
        loss = loss + settings.cosine * (1 - (directions * true).sum(dim=-1)).mean()
    if settings.mse:
        loss = loss + settings.mse * (predicted - true).square().sum(dim=-1).mean()
    if settings.negatives or settings.contrastive:
        cosines = directions @ true.T
        same = true @ true.T > _SAME
        if settings.negatives:
            excess = (cosines - settings.margin).relu().masked_fill(same, 0)
            loss = loss + settings.negatives * excess.sum() / (~same).sum().clamp(min=1)
        if settings.contrastive:
            answers = same.float() / same.sum(dim=-1, keepdim=True)
            scores = cosines / settings.temperature
            both = F.cross_entropy(scores, answers) + F.cross_entropy(scores.T, answers)
            loss = loss + settings.contrastive * both / 2
    return loss

"""The two losses of CoCa (section 3.1 of the paper)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

IGNORED = -100


def next_tokens(labels: torch.Tensor) -> torch.Tensor:
    """The target of each position: the labels shifted by one, (rows, length)."""
    return F.pad(labels[:, 1:], (0, 1), value=IGNORED)


def caption_loss(states: torch.Tensor, head: nn.Module, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the next token, averaged over all targets that are not `IGNORED`.

    The projection to the vocabulary, the widest layer, is computed only for these targets.

    Args:
        states: decoder states, (…, width).
        head: projection to the vocabulary.
        targets: the next token of each state, (…), or `IGNORED`.

    Returns:
        A scalar; 0 if there is no target.
    """
    counted = targets != IGNORED
    logits = head(states[counted])
    total = F.cross_entropy(logits.float(), targets[counted], reduction="sum")
    return total / counted.sum().clamp(min=1)


def contrastive_loss(
    image_embeds: torch.Tensor, text_embeds: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """Symmetric cross-entropy over the batch's image-text similarities, as in CLIP.

    The negatives are those of this process.

    Args:
        image_embeds: unit-norm (rows, width).
        text_embeds: unit-norm (rows, width); row r is the text of image r.
        scale: factor of the similarities, already exponentiated.
    """
    logits = scale * image_embeds @ text_embeds.T
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2

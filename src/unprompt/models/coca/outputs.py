"""The output objects of the CoCa models."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers.utils.generic import ModelOutput

from unprompt.models.coca.kv_cache import CoCaCache


@dataclass
class CoCaImageOutput(ModelOutput):
    """Encoded images.

    Attributes:
        states: image tokens for the decoder, (images, tokens, width).
        pooled: the contrastive token before its projection, (images, width).
    """

    states: torch.Tensor = None  # type: ignore[assignment]
    pooled: torch.Tensor = None  # type: ignore[assignment]


@dataclass
class CoCaOutput(ModelOutput):
    """Output of the models; a field that was not computed is None.

    Attributes:
        loss: weighted sum of the two losses, if labels were given.
        caption_loss: the captioning loss, unweighted.
        contrastive_loss: the contrastive loss, unweighted, if its weight is not 0.
        logits: logits of the next token, (rows, length, vocabulary), if no labels were given.
        last_hidden_state: states of the decoder, (rows, length, width). With labels and without the
            contrastive branch, only those of tokens that have a next token, (tokens, width).
        image_embeds: unit-norm (images, width); with the contrastive branch.
        text_embeds: unit-norm (rows, width); with the contrastive branch.
        past_key_values: the cache, extended.
        image_outputs: the encoded images, for the next call.
    """

    loss: torch.Tensor | None = None
    caption_loss: torch.Tensor | None = None
    contrastive_loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    last_hidden_state: torch.Tensor = None  # type: ignore[assignment]
    image_embeds: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    past_key_values: CoCaCache | None = None
    image_outputs: CoCaImageOutput | None = None

"""Beam scores as open_clip computes them."""

from __future__ import annotations

import torch
from transformers import LogitsProcessor

from unprompt.models.coca.modeling import CoCaForConditionalGeneration


class OpenClipScores(LogitsProcessor):
    """Rank beams by sums of raw logits, to get the captions of open_clip's own beam search.

    A beam's score is the sum of its tokens' log-probabilities, and `generate` uses these.
    open_clip sums the logits before normalisation, so that a beam gains from contexts in which
    all logits are large. Use this only to compare with it::

        model.generate(pixels, num_beams=6, logits_processor=[OpenClipScores(model)])

    Captions that end before ``max_length`` may still rank otherwise: open_clip counts the start
    token in the length by which it divides.
    """

    def __init__(self, model: CoCaForConditionalGeneration):
        self._normaliser = torch.zeros(0)
        model.get_output_embeddings().register_forward_hook(self._remember)

    def _remember(self, _: object, __: object, logits: torch.Tensor) -> None:
        self._normaliser = logits[:, -1].float().logsumexp(dim=-1, keepdim=True)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Log-probabilities (rows, vocabulary) back to logits."""
        return scores + self._normaliser

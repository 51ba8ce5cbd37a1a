"""Beam scores of open_clip, for comparison with its captions."""

from __future__ import annotations

import torch
from transformers import LogitsProcessor

from unprompt.models.coca.modeling import CoCaForConditionalGeneration


class OpenClipScores(LogitsProcessor):
    """Rank beams by sums of raw logits, as open_clip does.

    A beam's score should be the sum of its tokens' log-probabilities, and `generate` uses these.
    open_clip sums raw logits, which prefers contexts in which all logits are large. Use this class
    only to compare with open_clip::

        model.generate(pixels, num_beams=6, logits_processor=[OpenClipScores(model)])

    Captions that end before ``max_length`` may still be ranked differently: open_clip divides by a
    length that includes the start token.
    """

    def __init__(self, model: CoCaForConditionalGeneration):
        self._normaliser = torch.zeros(0)
        model.get_output_embeddings().register_forward_hook(self._keep_normaliser)

    def _keep_normaliser(self, _: object, __: object, logits: torch.Tensor) -> None:
        self._normaliser = logits[:, -1].float().logsumexp(dim=-1, keepdim=True)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Turn log-probabilities (rows, vocabulary) back into logits."""
        return scores + self._normaliser

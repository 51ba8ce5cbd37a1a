"""Faster top-p filtering and token sampling on a CPU."""

from __future__ import annotations

import numpy as np
import torch
from transformers import TopPLogitsWarper


class NucleusWarper(TopPLogitsWarper):
    """A `transformers.TopPLogitsWarper` that keeps the same tokens in less time on a CPU.

    transformers sorts values together with their indices. The cumulated probability needs only the
    values, which NumPy sorts ten times faster; then all tokens from the least kept value up are
    kept. If tokens tie for the last place, the same number is kept, but maybe not the same tokens.
    """

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Replace scores (rows, vocabulary) of removed tokens by the filter value."""
        if scores.device.type != "cpu" or scores.dtype != torch.float32:
            filtered: torch.Tensor = super().__call__(input_ids, scores)
            return filtered
        ranked = torch.from_numpy(np.sort(scores.numpy(), axis=-1))
        # The same operations as in transformers, so that rounding is the same too.
        below = ranked.softmax(dim=-1).cumsum(dim=-1) <= 1 - self.top_p
        most = scores.shape[-1] - self.min_tokens_to_keep
        removed_count = below.sum(dim=-1, keepdim=True).clamp(max=most)
        least = ranked.gather(-1, removed_count)
        removed = scores < least
        # Of tokens that tie for the last place, the first in the vocabulary are removed.
        ties = removed_count - removed.sum(dim=-1, keepdim=True)
        for row in ties[:, 0].nonzero()[:, 0].tolist():
            tied = (scores[row] == least[row]).nonzero()[:, 0]
            removed[row, tied[: int(ties[row])]] = True
        return scores.masked_fill(removed, self.filter_value)


def sample_tokens(scores: torch.Tensor) -> torch.Tensor:
    """Sample a token of each row from the softmax of its scores.

    `torch.multinomial` needs a random number for every token of the vocabulary. On a CPU, this
    function looks up one random number for each row in the cumulated probabilities: the same
    distribution in a tenth of the time. Other devices use `torch.multinomial`.

    Args:
        scores: (rows, vocabulary); -inf for a token that must not follow.

    Returns:
        int64 (rows,), from torch's default generator.

    Raises:
        ValueError: in a row no token may follow, or a score is not a number.
    """
    probabilities = scores.softmax(dim=-1)
    if scores.device.type != "cpu":
        return torch.multinomial(probabilities, 1)[:, 0]
    cumulated = probabilities.cumsum(dim=-1, dtype=torch.float64)
    total = cumulated[:, -1:]
    if not torch.isfinite(total).all():
        raise ValueError("no token can follow: every score is -inf, or one is not a number")
    threshold = torch.rand(len(scores), 1, dtype=torch.float64) * total
    # The first token whose sum is larger; a token of probability 0 is never the first.
    return torch.searchsorted(cumulated, threshold, right=True)[:, 0]

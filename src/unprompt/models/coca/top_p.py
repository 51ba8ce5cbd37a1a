"""Sampling on a CPU without what the library spends on every word of the vocabulary."""

from __future__ import annotations

import numpy as np
import torch
from transformers import TopPLogitsWarper


class NucleusWarper(TopPLogitsWarper):
    """`transformers.TopPLogitsWarper`, which keeps the same tokens, in less time on a CPU.

    The library sorts each row together with its indices. The sum that decides needs the sorted
    values alone, which NumPy sorts an order of magnitude faster; the least value that is kept
    then tells the tokens apart. Where several tie for the last place, the library keeps as many
    of them, but leaves to its sort which.
    """

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores (rows, vocabulary), with the filter value where a token falls."""
        if scores.device.type != "cpu" or scores.dtype != torch.float32:
            filtered: torch.Tensor = super().__call__(input_ids, scores)
            return filtered
        ranked = torch.from_numpy(np.sort(scores.numpy(), axis=-1))
        # As the library sums, so that the roundings are the same too.
        below = ranked.softmax(dim=-1).cumsum(dim=-1) <= 1 - self.top_p
        most = scores.shape[-1] - self.min_tokens_to_keep
        fallen = below.sum(dim=-1, keepdim=True).clamp(max=most)
        least = ranked.gather(-1, fallen)
        removed = scores < least
        # Of tokens that tie for the last place, those first in the vocabulary fall: a stable sort.
        ties = fallen - removed.sum(dim=-1, keepdim=True)
        for row in ties[:, 0].nonzero()[:, 0].tolist():
            tied = (scores[row] == least[row]).nonzero()[:, 0]
            removed[row, tied[: int(ties[row])]] = True
        return scores.masked_fill(removed, self.filter_value)


def draw(scores: torch.Tensor) -> torch.Tensor:
    """Draw a token of each row from the softmax of its scores.

    `torch.multinomial` draws an exponential number for every token of the vocabulary; on a CPU
    one uniform number a row, looked up in the cumulated probabilities, takes a tenth of the time
    and gives the same distribution. Elsewhere it is `torch.multinomial`.

    Args:
        scores: (rows, vocabulary); -inf where a token must not follow.

    Returns:
        int64 (rows,), by torch's default generator.

    Raises:
        ValueError: a row lets no token follow, or its scores are not numbers.
    """
    chances = scores.softmax(dim=-1)
    if scores.device.type != "cpu":
        return torch.multinomial(chances, 1)[:, 0]
    reached = chances.cumsum(dim=-1, dtype=torch.float64)
    total = reached[:, -1:]
    if not torch.isfinite(total).all():
        raise ValueError("no token can follow: every score is -inf, or one is no number")
    drawn = torch.rand(len(scores), 1, dtype=torch.float64) * total
    # The first token whose sum is above: one of chance 0 adds nothing, and is never it.
    return torch.searchsorted(reached, drawn, right=True)[:, 0]

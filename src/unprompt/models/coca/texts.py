"""Where texts begin and end in a batch of token ids, and who may see whom."""

from __future__ import annotations

from typing import NamedTuple

import torch

from unprompt.models.coca.configuration import CoCaConfig


class Ragged(NamedTuple):
    """Texts of different lengths laid end to end, so that padding costs nothing.

    Everything but attention works token by token; attention spreads the tokens out and gathers
    them again.

    Attributes:
        places: of the tokens in the padded batch, flattened: row * length + position.
        rows: texts.
        length: of the padded batch.
    """

    places: torch.Tensor
    rows: int
    length: int

    @classmethod
    def of(cls, lengths: torch.Tensor, length: int) -> Ragged:
        """The first ``lengths[r]`` tokens of each row of a batch ``length`` wide."""
        held = torch.arange(length, device=lengths.device) < lengths[:, None]
        return cls(held.flatten().nonzero()[:, 0], len(lengths), length)

    def spread(self, x: torch.Tensor) -> torch.Tensor:
        """(tokens, …) to (rows, length, …), zeros where there is no token."""
        padded = x.new_zeros(self.rows * self.length, *x.shape[1:])
        return padded.index_copy(0, self.places, x).unflatten(0, (self.rows, self.length))

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        """(rows, length, …) to (tokens, …)."""
        return x.flatten(0, 1)[self.places]


def lengths_of(
    input_ids: torch.Tensor, attention_mask: torch.Tensor | None, config: CoCaConfig
) -> torch.Tensor:
    """Lengths of texts padded on the right.

    Without a mask, a text ends with its first end token, whatever stands behind; one without end
    token (cut off) ends before its trailing fillers. The filler's id is a token of real texts
    too (0 is a '!' inside a word), so that it does not count as padding anywhere else.

    Args:
        input_ids: (rows, length).
        attention_mask: 0 on padding, or None.
        config: says which tokens end and fill.

    Returns:
        int64 (rows,).
    """
    if attention_mask is not None:
        return attention_mask.sum(dim=1)
    length = input_ids.shape[1]
    index = torch.arange(1, length + 1, device=input_ids.device)
    ends = torch.where(input_ids == config.eos_token_id, index, length + 1).amin(dim=1)
    fillers = torch.where(input_ids != config.filler_token_id, index, 0).amax(dim=1)
    return torch.where(ends <= length, ends, fillers)


def step_mask(attention_mask: torch.Tensor | None, length: int, past: int) -> torch.Tensor | None:
    """Who may see whom, where plain causality does not do.

    Padding on the right needs no mask: no token of a text sees what comes later.

    Args:
        attention_mask: (rows, past + length), 0 on padding, or None.
        length: new positions.
        past: cached positions.

    Returns:
        bool (rows or 1, 1, length, past + length); None for plain causality.
    """
    if attention_mask is not None and bool((attention_mask[:, :-1] < attention_mask[:, 1:]).any()):
        # A padded position sees itself, so that no row of the softmax is empty.
        itself = torch.eye(past + length, dtype=torch.bool, device=attention_mask.device)[past:]
        seen = attention_mask[:, None, :].bool() | itself
        return (causal_mask(length, past, seen.device) & seen)[:, None]
    if past == 0 or length == 1:
        return None
    return causal_mask(length, past)[None, None]


def causal_mask(length: int, past: int = 0, device: torch.device | None = None) -> torch.Tensor:
    """Each of ``length`` new positions sees itself and all before, bool (length, past + length)."""
    index = torch.arange(past + length, device=device)
    return index <= index[past:, None]


def step_positions(
    attention_mask: torch.Tensor | None, length: int, past: int, device: torch.device
) -> torch.Tensor:
    """Positions of the new tokens in their texts, (rows or 1, length)."""
    if attention_mask is None:
        return torch.arange(past, past + length, device=device)[None]
    return (attention_mask.cumsum(dim=1) - 1).clamp(min=0)[:, past:]


def to_prompt(
    input_ids: torch.Tensor, attention_mask: torch.Tensor | None, config: CoCaConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Whole texts as beginnings to go on with: the end token goes, padding moves to the left.

    Args:
        input_ids: (rows, length), padded on the right or not at all.
        attention_mask: of ``input_ids``, or None.
        config: says which token ends.

    Returns:
        Token ids and mask, (rows, longest).
    """
    lengths = lengths_of(input_ids, attention_mask, config)
    last = input_ids.gather(1, (lengths - 1).clamp(min=0)[:, None])[:, 0]
    lengths = lengths - (last == config.eos_token_id).long()
    longest = int(lengths.max())
    index = torch.arange(longest, device=input_ids.device) - (longest - lengths)[:, None]
    mask = index >= 0
    prompt = input_ids.gather(1, index.clamp(min=0))
    return torch.where(mask, prompt, config.pad_token_id), mask.long()

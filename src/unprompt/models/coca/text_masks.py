"""Lengths, positions and attention masks of texts in a batch of token ids."""

from __future__ import annotations

from typing import NamedTuple

import torch

from unprompt.models.coca.configuration import CoCaConfig


class Ragged(NamedTuple):
    """Texts of different lengths in one concatenated sequence, so that padding costs nothing.

    All layers but attention work token by token. Attention pads the tokens with `spread` and
    removes the padding with `gather`.

    Attributes:
        places: index of each token in the flattened padded batch: row * length + position.
        rows: number of texts.
        length: length of the padded batch.
    """

    places: torch.Tensor
    rows: int
    length: int

    @classmethod
    def of(cls, lengths: torch.Tensor, length: int) -> Ragged:
        """Take the first ``lengths[r]`` tokens of each row r of a batch that is ``length`` wide."""
        held = torch.arange(length, device=lengths.device) < lengths[:, None]
        return cls(held.flatten().nonzero()[:, 0], len(lengths), length)

    def spread(self, x: torch.Tensor) -> torch.Tensor:
        """(tokens, …) to (rows, length, …), with zeros for padding."""
        padded = x.new_zeros(self.rows * self.length, *x.shape[1:])
        return padded.index_copy(0, self.places, x).unflatten(0, (self.rows, self.length))

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        """(rows, length, …) to (tokens, …)."""
        return x.flatten(0, 1)[self.places]


def lengths_of(
    input_ids: torch.Tensor, attention_mask: torch.Tensor | None, config: CoCaConfig
) -> torch.Tensor:
    """Lengths of texts that are padded on the right.

    Without a mask, a text ends with its first end token. A truncated text, which has no end token,
    ends before its trailing filler tokens. The filler's id also occurs inside real texts (0 is a
    '!' inside a word), so it counts as padding only there.

    Args:
        input_ids: (rows, length).
        attention_mask: 0 on padding, or None.
        config: has the ids of the end and the filler token.

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
    """The attention mask of a step, if a plain causal mask is not enough.

    Padding on the right needs no mask, because no token attends to later ones.

    Args:
        attention_mask: (rows, past + length), 0 on padding, or None.
        length: new positions.
        past: cached positions.

    Returns:
        bool (rows or 1, 1, length, past + length); None for a plain causal mask.
    """
    if attention_mask is not None and bool((attention_mask[:, :-1] < attention_mask[:, 1:]).any()):
        # A padded position attends to itself, so that no row of the softmax is empty.
        itself = torch.eye(past + length, dtype=torch.bool, device=attention_mask.device)[past:]
        seen = attention_mask[:, None, :].bool() | itself
        return (causal_mask(length, past, seen.device) & seen)[:, None]
    if past == 0 or length == 1:
        return None
    return causal_mask(length, past)[None, None]


def causal_mask(length: int, past: int = 0, device: torch.device | None = None) -> torch.Tensor:
    """Let each new position attend to itself and all earlier ones: (length, past + length)."""
    index = torch.arange(past + length, device=device)
    return index <= index[past:, None]


def step_positions(
    attention_mask: torch.Tensor | None, length: int, past: int, device: torch.device
) -> torch.Tensor:
    """Positions of the new tokens in their texts, (rows or 1, length)."""
    if attention_mask is None:
        return torch.arange(past, past + length, device=device)[None]
    return (attention_mask.cumsum(dim=1) - 1).clamp(min=0)[:, past:]


def check_token_ids(input_ids: torch.Tensor, config: CoCaConfig) -> None:
    """Check that token ids are in the vocabulary.

    Raises:
        ValueError: an id is negative or too large; the message names it.
    """
    outside = input_ids[(input_ids < 0) | (input_ids >= config.vocab_size)]
    if len(outside):
        raise ValueError(
            f"token id {int(outside[0])} is outside the vocabulary of {config.vocab_size}; use the "
            "tokenizer of this model"
        )


def to_prompt(
    input_ids: torch.Tensor, attention_mask: torch.Tensor | None, config: CoCaConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn whole texts into beginnings to continue: remove the end token, pad on the left.

    Args:
        input_ids: (rows, length), padded on the right or not at all.
        attention_mask: mask of ``input_ids``, or None.
        config: has the id of the end token.

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

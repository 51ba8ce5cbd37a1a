"""Tokenise prompts, and group them into batches without padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from unprompt.encoding.encoder_config import EncoderConfig, EncoderError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class Batch:
    """Token ids of a few prompts of one length.

    Attributes:
        rows: indices of the prompts, int64 of shape (n,).
        ids: token ids, int64 of shape (n, length).
    """

    rows: np.ndarray
    ids: np.ndarray


def load_tokenizer(config: EncoderConfig) -> Tokenizer:
    """Load the fast tokenizer of a model folder, with truncation and without padding.

    Raises:
        EncoderError: the file is damaged.
    """
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(config.tokenizer))
    # The library raises a plain Exception for a file that it cannot read.
    except Exception as error:
        raise EncoderError(
            f"{config.tokenizer}: cannot be read ({error}); download the model again"
        ) from error
    tokenizer.no_padding()
    tokenizer.enable_truncation(config.max_length)
    return tokenizer


def tokenize(tokenizer: Tokenizer, config: EncoderConfig, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, special tokens included, at most ``config.max_length`` of them.

    White space around a text is removed, as sentence-transformers does. Lone surrogates, which
    occur in damaged metadata and which no tokenizer accepts, become U+FFFD.
    """
    prepared = [config.prefix + text.strip() for text in texts]
    if config.lower_case:
        prepared = [text.lower() for text in prepared]
    prepared = [text if _is_unicode(text) else _repair(text) for text in prepared]
    return [encoding.ids for encoding in tokenizer.encode_batch_fast(prepared)]


def batches(ids: Sequence[Sequence[int]], max_rows: int, max_tokens: int) -> Iterator[Batch]:
    """Yield batches of prompts of the same length, longest first.

    Without padding, no work is lost (sentence-transformers adds 29 % of padding to 10,000 real
    prompts) and attention needs no mask. The longest prompts come first, so a batch that does not
    fit in memory fails at once.

    Args:
        ids: token ids of each prompt, at least one.
        max_rows: most prompts in a batch.
        max_tokens: most tokens in a batch (a single prompt may have more).
    """
    lengths = np.array([len(row) for row in ids], dtype=np.int64)
    order = np.argsort(-lengths, kind="stable")
    ends = np.flatnonzero(np.diff(lengths[order])) + 1
    for group in np.split(order, ends) if len(order) else []:
        size = max(1, min(max_rows, max_tokens // int(lengths[group[0]])))
        for start in range(0, len(group), size):
            rows = group[start : start + size]
            yield Batch(rows, np.array([ids[row] for row in rows], dtype=np.int64))


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _repair(text: str) -> str:
    return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)

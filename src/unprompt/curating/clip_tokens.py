"""Number of CLIP tokens of a prompt; CLIP reads the first 77.

The tokenizer is CLIP's byte-level BPE (Radford et al., 2021, section 2.4), run by the tokenizers
library. Its merges are those of openai/CLIP (MIT licence), read from the installed open_clip.
"""

from __future__ import annotations

import gzip
import html
import importlib.util
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unprompt.errors import MissingExtraError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CONTEXT = 77
"""Tokens that CLIP reads, including start and end token."""

_MERGES = "bpe_simple_vocab_16e6.txt.gz"
_MERGE_COUNT = 49_152 - 256 - 2
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def count_tokens(prompts: Sequence[str]) -> np.ndarray:
    """Number of CLIP tokens of each prompt, including start and end token: int64 of shape (n,).

    Raises:
        MissingExtraError: open_clip, which holds the merges, is not installed.
    """
    tokenizer = _tokenizer()
    encodings = tokenizer.encode_batch_fast([*map(_clean, prompts)], add_special_tokens=False)
    return np.array([len(encoding) + 2 for encoding in encodings], dtype=np.int64)


def _clean(prompt: str) -> str:
    """CLIP's cleaning of a text: repair wrong encodings, and unescape HTML twice."""
    from ftfy import fix_text

    return html.unescape(html.unescape(fix_text(prompt)))


@lru_cache(maxsize=1)
def _tokenizer() -> Tokenizer:
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    spec = importlib.util.find_spec("open_clip")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError("open_clip_torch", "train")
    path = Path(next(iter(spec.submodule_search_locations))) / _MERGES
    lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
    merges = [(a, b) for a, b in (line.split() for line in lines[1 : _MERGE_COUNT + 1])]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters), *(a + b for a, b in merges)]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer

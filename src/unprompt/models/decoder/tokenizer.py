"""The decoder's vocabulary: byte-level BPE of the `tokenizers` library."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from unprompt.errors import ModelNotFoundError
from unprompt.files import atomic_open

TOKENIZER_FILE = "tokenizer.json"
START, STOP = 0, 1
"""Ids of the tokens before and after a text."""


def train_tokenizer(texts: Iterable[str], vocab_size: int, lowercase: bool = True) -> Tokenizer:
    """Train a byte-level BPE (Sennrich et al. 2016; bytes as in GPT-2, so it can write any text).

    Args:
        texts: texts to train on.
        vocab_size: number of tokens, the bytes and the two special tokens included.
        lowercase: make all texts lower-case. Use it for a target encoder that ignores case, as
            MiniLM does: its embeddings do not contain which letters were capitals.
    """
    tokenizer = Tokenizer(models.BPE())
    steps: list[normalizers.Normalizer] = [normalizers.NFC(), normalizers.Strip()]
    if lowercase:
        steps.append(normalizers.Lowercase())
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<start>", "<stop>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: str | Path) -> None:
    """Write ``tokenizer.json`` into a model's folder."""
    with atomic_open(Path(folder) / TOKENIZER_FILE) as file:
        file.write(tokenizer.to_str())


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Load the vocabulary of a model's folder.

    Raises:
        ModelNotFoundError: the folder has no vocabulary.
    """
    path = Path(folder) / TOKENIZER_FILE
    if not path.is_file():
        raise ModelNotFoundError(f"{path} is missing: {folder} is not a decoder")
    return Tokenizer.from_file(str(path))


def texts_of(tokenizer: Tokenizer, ids: Iterable[Iterable[int]]) -> list[str]:
    """Token ids to texts; each text ends before its first stop token."""
    texts = []
    for row in ids:
        kept = []
        for token in row:
            if token == STOP:
                break
            kept.append(int(token))
        texts.append(tokenizer.decode(kept).strip())
    return texts

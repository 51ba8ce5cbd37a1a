"""A bank from a list of prompts of any length: read, encoded and written block by block."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import compress, islice
from pathlib import Path

import numpy as np

from unprompt.encoding import DEFAULT_ENCODER, TextEncoder, encode, load_encoder
from unprompt.errors import MissingExtraError, TableError
from unprompt.files import atomic_folder
from unprompt.models.bank.bank import BANK_FOLDER, Bank, write_bank
from unprompt.pairs.prompt_file import stream_prompts, text_key
from unprompt.predicting.knn_model import KEYS_FOLDER, save_knn
from unprompt.predicting.public_weights import advice
from unprompt.progress import track

_BLOCK = 16_384


def build_bank(
    source: str | Path,
    folder: str | Path,
    index: str = "flat",
    encoder: str = DEFAULT_ENCODER,
    precision: str = "auto",
) -> Bank:
    """Write the bank of a file's prompts; those that repeat, but for white space, are kept once.

    Embeddings pass through the cache of `unprompt.encoding.encode`, so a killed call that is made
    again encodes only what is missing.

    Args:
        source: any file of `unprompt.pairs.prompt_file.prompts_of`.
        folder: the bank's; must be new or empty.
        index: ``flat``, ``sq8`` or ``pq``, as `unprompt.models.bank.bank.write_bank`.
        encoder: the target encoder.
        precision: as `unprompt.encoding.load_encoder`.

    Raises:
        TableError: the source cannot be read, or holds no prompts.
        OutputError: the folder is not empty or cannot be written.
        UnpromptError: as `unprompt.models.bank.bank.write_bank`; the encoder cannot be had.
    """
    distinct = _distinct(source)
    return _write(distinct, folder, load_encoder(encoder, precision=precision), index)


def build_knn(
    source: str | Path,
    folder: str | Path,
    clip: str,
    index: str = "flat",
    encoder: str = DEFAULT_ENCODER,
    precision: str = "auto",
    device: str = "cpu",
) -> Bank:
    """Write the model of `unprompt.predicting.knn_model`: a bank that is searched by image.

    Args:
        source: of the prompts, as in `build_bank`.
        folder: the model's; must be new or empty.
        clip: its text tower makes the keys: ``hf_clip/…``, ``open_clip/…`` or ``hf/…`` (SigLIP).
        index: as in `build_bank`; of both the texts and the keys.
        encoder: the target encoder.
        precision: as `unprompt.encoding.load_encoder`.
        device: for the text tower.

    Returns:
        Its bank of prompts.

    Raises:
        ModelNotFoundError: the CLIP cannot be had.
        UnpromptError: as `build_bank`; ``clip`` has no text tower.
    """
    distinct = _distinct(source)
    values, keys = load_encoder(encoder, precision=precision), _text_tower(clip, device)
    with atomic_folder(folder) as temporary:
        _write(distinct, temporary / BANK_FOLDER, values, index)
        _write(distinct, temporary / KEYS_FOLDER, keys, index)
        save_knn(temporary)
    return Bank.load(folder)


@dataclass(frozen=True)
class _Distinct:
    """The prompts of a file, each once; iterating reads the file again.

    Attributes:
        prompts: reads all of them.
        first: bool of each: no earlier one equals it.
    """

    prompts: Callable[[], Iterator[str]]
    first: np.ndarray

    def __len__(self) -> int:
        return int(self.first.sum())

    def __iter__(self) -> Iterator[str]:
        return compress(self.prompts(), self.first)


def _distinct(source: str | Path) -> _Distinct:
    prompts = partial(_single_spaced, source)
    found = _Distinct(prompts, _first_of_each(prompts()))
    if not len(found):
        raise TableError(f"{source}: holds no prompts; a bank needs one at least")
    return found


def _write(distinct: _Distinct, folder: str | Path, encoder: TextEncoder, index: str) -> Bank:
    """Write the bank of an encoder's embeddings, block by block."""
    prompts = iter(distinct)
    blocks = iter(lambda: list(islice(prompts, _BLOCK)), [])
    embedded = ((block, encode(block, encoder)) for block in blocks)
    tracked = track(embedded, "Encoding", -(-len(distinct) // _BLOCK))
    return write_bank(folder, tracked, encoder.name, index)


def _text_tower(clip: str, device: str) -> TextEncoder:
    try:
        from unprompt.models.text_towers import create_text_tower
    except ImportError as error:
        raise MissingExtraError(error.name or "torch", "train") from error
    with advice(clip):
        return create_text_tower(clip, device)


def _single_spaced(source: str | Path) -> Iterator[str]:
    """Prompts of a file, white space made single spaces; blank ones are left out."""
    return filter(None, (" ".join(prompt.split()) for prompt in stream_prompts(source)))


def _first_of_each(prompts: Iterator[str]) -> np.ndarray:
    """Bool of each prompt: no earlier one equals it.

    Only their hashes are held, 8 bytes a prompt.
    """
    hashes = array("Q", map(text_key, prompts))
    first = np.zeros(len(hashes), dtype=bool)
    first[np.unique(np.array(hashes, dtype=np.uint64), return_index=True)[1]] = True
    return first

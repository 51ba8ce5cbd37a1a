"""Models that are built without training: a bank, a kNN model and an interrogator."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import compress, islice
from pathlib import Path

import numpy as np

from unprompt.devices import choose_device
from unprompt.encoding import DEFAULT_ENCODER, TextEncoder, encode, load_encoder
from unprompt.errors import TableError, need
from unprompt.files import atomic_folder
from unprompt.models.bank.bank import Bank, write_bank
from unprompt.models.model_folder import BANK_FOLDER, KEYS_FOLDER
from unprompt.pairs.prompt_file import stream_prompts, text_key
from unprompt.predicting.interrogator_model import Interrogator, InterrogatorConfig
from unprompt.predicting.knn_model import save_knn
from unprompt.predicting.loading import load_interrogator
from unprompt.predicting.options import PredictOptions
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
    """Write the bank of a file's prompts.

    Prompts that differ in white space only are kept once. The list may be longer than memory
    holds: it is read, encoded and written block by block. Embeddings pass through the cache of
    `unprompt.encoding.encode`, so that a call after a killed one encodes only what is missing.

    Args:
        source: any file of `unprompt.pairs.prompt_file.prompts_of`.
        folder: the bank's; must be new or empty.
        index: ``flat``, ``sq8`` or ``pq``, as `unprompt.models.bank.bank.write_bank`.
        encoder: the target encoder.
        precision: as `unprompt.encoding.load_encoder`.

    Raises:
        TableError: the source cannot be read, or holds no prompts.
        OutputError: the folder is not empty or cannot be written.
        UnpromptError: as `unprompt.models.bank.bank.write_bank`; the encoder is not to be had.
    """
    return _write(_distinct(source), folder, load_encoder(encoder, precision=precision), index)


def build_knn(
    source: str | Path,
    folder: str | Path,
    clip: str,
    index: str = "flat",
    encoder: str = DEFAULT_ENCODER,
    precision: str = "auto",
    device: str | None = None,
) -> Bank:
    """Write the model of `unprompt.predicting.knn_model`: a bank that is searched by image.

    Args:
        source: the prompts, as in `build_bank`.
        folder: the model's; must be new or empty.
        clip: its text tower makes the keys: ``hf_clip/…``, ``open_clip/…`` or ``hf/…`` (SigLIP).
        index: as in `build_bank`, for both the prompts and the keys.
        encoder: the target encoder.
        precision: as `unprompt.encoding.load_encoder`.
        device: of the text tower; by default ``cuda`` where there is one.

    Returns:
        The model's bank of prompts.

    Raises:
        MissingExtraError: torch is not installed.
        ModelNotFoundError: the CLIP is not to be had.
        UnpromptError: as `build_bank`; ``clip`` has no text tower.
    """
    need("train", "torch", "transformers")
    from unprompt.models.text_towers import create_text_tower

    distinct = _distinct(source)
    values = load_encoder(encoder, precision=precision)
    with advice(clip):
        keys = create_text_tower(clip, choose_device(device))
    with atomic_folder(folder) as temporary:
        _write(distinct, temporary / BANK_FOLDER, values, index)
        _write(distinct, temporary / KEYS_FOLDER, keys, index)
        save_knn(temporary)
    return Bank.load(folder)


def build_interrogator(
    config: InterrogatorConfig, folder: str | Path, device: str | None = None
) -> Interrogator:
    """Write the folder of an interrogator, once its models are loaded and its phrases encoded.

    Raises:
        ModelNotFoundError: the CLIP or the captioner is not to be had.
        OutputError: the folder cannot be written.
        UnpromptError: as `load_interrogator`.
    """
    with advice(config.clip):
        model = load_interrogator(config, str(folder), Path(folder), PredictOptions(device=device))
    config.save(folder)
    return model


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
        raise TableError(f"{source}: holds no prompts; a bank needs at least one")
    return found


def _write(distinct: _Distinct, folder: str | Path, encoder: TextEncoder, index: str) -> Bank:
    """Write the bank of an encoder's embeddings, block by block."""
    prompts = iter(distinct)
    blocks = iter(lambda: list(islice(prompts, _BLOCK)), [])
    embedded = ((block, encode(block, encoder)) for block in blocks)
    tracked = track(embedded, "Encoding", -(-len(distinct) // _BLOCK))
    return write_bank(folder, tracked, encoder.name, index)


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

"""Build models that need no training: banks, kNN models and interrogators."""

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
    """Build a bank from the prompts of a file.

    Of prompts that differ only in white space, one is kept. Prompts are read, encoded and written
    block by block, so the bank may be larger than memory. If a call was killed, the next one finds
    its embeddings in the cache of `unprompt.encoding.encode`.

    Args:
        source: a file that `unprompt.pairs.prompt_file.prompts_of` reads.
        folder: folder of the bank, new or empty.
        index: ``flat``, ``sq8`` or ``pq``; see `unprompt.models.bank.bank.write_bank`.
        encoder: the target encoder.
        precision: see `unprompt.encoding.load_encoder`.

    Raises:
        TableError: the source cannot be read, or holds no prompts.
        OutputError: the folder is not empty or cannot be written.
        UnpromptError: the encoder cannot be found or downloaded; or see
            `unprompt.models.bank.bank.write_bank`.
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
    """Build a kNN model (`unprompt.predicting.knn_model`): a bank that is searched by image.

    Args:
        source: a file of prompts, see `build_bank`.
        folder: folder of the model, new or empty.
        clip: the CLIP whose text tower makes the keys: ``hf_clip/…``, ``open_clip/…`` or ``hf/…``
            (SigLIP).
        index: see `build_bank`; for both the prompts and the keys.
        encoder: the target encoder.
        precision: see `unprompt.encoding.load_encoder`.
        device: device of the text tower; by default ``cuda`` if there is one.

    Returns:
        The model's bank of prompts.

    Raises:
        MissingExtraError: torch is not installed.
        ModelNotFoundError: the CLIP cannot be found or downloaded.
        UnpromptError: ``clip`` has no text tower; or see `build_bank`.
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
    """Load an interrogator's models, encode its phrases, and write its folder.

    Raises:
        ModelNotFoundError: the CLIP or the captioner cannot be found or downloaded.
        OutputError: the folder cannot be written.
        UnpromptError: see `load_interrogator`.
    """
    with advice(config.clip):
        model = load_interrogator(config, str(folder), Path(folder), PredictOptions(device=device))
    config.save(folder)
    return model


@dataclass(frozen=True)
class _Distinct:
    """The distinct prompts of a file; each iteration reads the file again.

    Attributes:
        prompts: reads all of them.
        first: for each of them, whether no earlier prompt equals it; bool.
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
    """Prompts of a file without the blank ones; each run of white space becomes one space."""
    return filter(None, (" ".join(prompt.split()) for prompt in stream_prompts(source)))


def _first_of_each(prompts: Iterator[str]) -> np.ndarray:
    """For each prompt, whether no earlier one equals it; holds a hash of 8 bytes for each."""
    hashes = array("Q", map(text_key, prompts))
    first = np.zeros(len(hashes), dtype=bool)
    first[np.unique(np.array(hashes, dtype=np.uint64), return_index=True)[1]] = True
    return first

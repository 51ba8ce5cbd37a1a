"""A bank from a list of prompts of any length: read, encoded and written block by block."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator
from functools import partial
from itertools import compress, islice
from pathlib import Path

import numpy as np

from unprompt.encoding import DEFAULT_ENCODER, encode, load_encoder
from unprompt.errors import TableError
from unprompt.models.bank import Bank, write_bank
from unprompt.pairs.table import stream
from unprompt.pairs.text import stream_lines
from unprompt.progress import track

_BLOCK = 16_384
_TABLES = (".parquet", ".jsonl")


def build_bank(
    source: str | Path,
    folder: str | Path,
    index: str = "flat",
    encoder: str = DEFAULT_ENCODER,
    precision: str = "auto",
    progress: bool = False,
) -> Bank:
    """Write the bank of a file's prompts; those that repeat, but for white space, are kept once.

    Embeddings pass through the cache of `unprompt.encoding.encode`, so a killed call that is made
    again encodes only what is missing.

    Args:
        source: a pairs table (``.parquet``, ``.jsonl``, or its folder), or a text file, a prompt a
            line.
        folder: the bank's; must be new or empty.
        index: ``flat``, ``sq8`` or ``pq``, as `unprompt.models.bank.write_bank`.
        encoder: the target encoder.
        precision: as `unprompt.encoding.load_encoder`.
        progress: show a bar.

    Raises:
        TableError: the source cannot be read, or holds no prompts.
        OutputError: the folder is not empty or cannot be written.
        UnpromptError: as `unprompt.models.bank.write_bank`; the encoder cannot be had.
    """
    prompts = _reader(Path(source))
    first = _first_of_each(prompts())
    if not first.any():
        raise TableError(f"{source}: holds no prompts; a bank needs one at least")
    loaded = load_encoder(encoder, precision=precision)
    distinct = compress(prompts(), first)
    blocks = iter(lambda: list(islice(distinct, _BLOCK)), [])
    embedded = ((block, encode(block, loaded)) for block in blocks)
    total = -(-int(first.sum()) // _BLOCK)
    return write_bank(folder, track(embedded, "Encoding", total, progress), encoder, index)


def _reader(source: Path) -> Callable[[], Iterator[str]]:
    """Reads the prompts from the start each time it is called, white space made single spaces."""
    is_table = source.suffix.lower() in _TABLES or source.is_dir()
    return partial(_table_prompts if is_table else _text_prompts, source)


def _table_prompts(source: Path) -> Iterator[str]:
    for batch in stream(source, ["prompt"]):
        yield from filter(None, (" ".join(prompt.split()) for prompt in batch.prompts))


def _text_prompts(source: Path) -> Iterator[str]:
    return filter(None, (" ".join(line.split()) for line in stream_lines(source)))


def _first_of_each(prompts: Iterator[str]) -> np.ndarray:
    """Bool of each prompt: no earlier one equals it.

    Told by 64-bit hashes, 8 bytes a prompt; that two of ten million differing prompts share one
    has a chance of 3 in a million.
    """
    hashes = array("Q")
    for prompt in prompts:
        digest = hashlib.blake2b(prompt.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        hashes.append(int.from_bytes(digest, "little"))
    first = np.zeros(len(hashes), dtype=bool)
    first[np.unique(np.array(hashes, dtype=np.uint64), return_index=True)[1]] = True
    return first

"""Prompt embeddings of a pairs table or of a file of prompts."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from unprompt.encoding import DEFAULT_ENCODER, encode, load_encoder
from unprompt.errors import OutputError
from unprompt.files import atomic_open
from unprompt.pairs.prompt_file import is_table, prompts_of
from unprompt.pairs.table import PairsTable, PairsWriter, stream

_ROWS = 65_536
"""Rows in memory at a time; as many prompts as `PromptEncoder.stream` sorts by length at once."""


def with_embeddings(
    table: PairsTable,
    encoder: str = DEFAULT_ENCODER,
    precision: str = "auto",
) -> PairsTable:
    """The table with an embedding in every row: itself where it has them all already.

    Args:
        table: the pairs.
        encoder: hub id or path.
        precision: as `unprompt.encoding.load_encoder`.

    Raises:
        UnpromptError: the encoder is not there.
    """
    if table.has("embedding") or not len(table):
        return table
    embeddings = encode(table.prompts, encoder, precision=precision)
    return table.with_columns({"embedding": embeddings})


def encode_file(
    source: str | Path,
    output: str | Path,
    encoder: str = DEFAULT_ENCODER,
    backend: str = "auto",
    precision: str = "auto",
) -> int:
    """Encode every prompt of a file, and write the embeddings.

    The embeddings pass through the cache of `unprompt.encoding.encode`, so a killed call that is
    made again goes on where it stopped.

    Args:
        source: a pairs table, or any file of `unprompt.pairs.prompt_file.prompts_of`.
        output: ``.npy`` for an array, float32 of shape (n, dim), in the order of the rows or of
            the lines that are not blank; ``.parquet`` for the pairs table with its column
            ``embedding`` (float16) set, replaced where it was there.
        encoder: hub id or path.
        backend: as in `unprompt.encoding.load_encoder`.
        precision: likewise.

    Returns:
        How many prompts there were.

    Raises:
        OutputError: ``output`` is of no such kind, cannot be made of ``source``, or written.
        TableError: the source cannot be read.
        UnpromptError: the encoder cannot be had.
    """
    source, output = Path(source), Path(output)
    wanted = (".npy", ".parquet") if is_table(source) else (".npy",)
    if output.suffix.lower() not in wanted:
        raise OutputError(
            f"{output}: the embeddings of {source.name} go to a file that ends in "
            + " or ".join(wanted)
        )
    loaded = load_encoder(encoder, backend, precision)
    if output.suffix.lower() == ".npy":
        prompts = prompts_of(source)
        embeddings = encode(prompts, loaded)
        with atomic_open(output, "wb") as file:
            np.save(file, embeddings)
        return len(prompts)
    head = next(stream(source, ["id"], batch_size=1), None)
    with PairsWriter(output, head.root if head else None) as writer:
        for batch in stream(source, batch_size=_ROWS):
            embeddings = encode(batch.prompts, loaded)
            writer.write(batch.with_columns({"embedding": embeddings}))
        return writer.rows

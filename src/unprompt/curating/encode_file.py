"""Prompt embeddings of a pairs table or of a file of prompts."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from unprompt.encoding import DEFAULT_ENCODER, encode, load_encoder
from unprompt.errors import OutputError
from unprompt.files import atomic_open
from unprompt.pairs.columns import GUESSED, Columns
from unprompt.pairs.prompt_file import is_table, prompts_of
from unprompt.pairs.table import PairsTable, PairsWriter, stream

_ROWS = 65_536
"""Rows in memory at a time."""


def with_embeddings(
    table: PairsTable,
    encoder: str = DEFAULT_ENCODER,
    precision: str = "auto",
) -> PairsTable:
    """The table with an embedding in every row; the same table if none is missing.

    Args:
        table: the pairs.
        encoder: hub id or path.
        precision: as in `unprompt.encoding.load_encoder`.

    Raises:
        UnpromptError: the encoder cannot be loaded.
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
    named: Columns = GUESSED,
) -> int:
    """Encode every prompt of a file, and write the embeddings.

    `unprompt.encoding.encode` caches embeddings, so the same call continues a killed one.

    Args:
        source: a pairs table, or any file that `unprompt.pairs.prompt_file.prompts_of` reads.
        output: ``.npy`` for an array, float32 of shape (n, dim), in the order of the prompts;
            ``.parquet`` for the pairs table with a new column ``embedding`` (float16).
        encoder: hub id or path.
        backend: as in `unprompt.encoding.load_encoder`.
        precision: as in `unprompt.encoding.load_encoder`.
        named: as in `unprompt.pairs.table.load`.

    Returns:
        The number of prompts.

    Raises:
        OutputError: ``output`` has another ending, is ``.parquet`` but the source is not a table,
            or cannot be written.
        TableError: the source cannot be read.
        UnpromptError: the encoder cannot be loaded.
    """
    source, output = Path(source), Path(output)
    wanted = (".npy", ".parquet") if is_table(source, named) else (".npy",)
    if output.suffix.lower() not in wanted:
        raise OutputError(
            f"{output}: write the embeddings of {source.name} to a file that ends in "
            + " or ".join(wanted)
        )
    loaded = load_encoder(encoder, backend, precision)
    if output.suffix.lower() == ".npy":
        prompts = prompts_of(source, named)
        embeddings = encode(prompts, loaded)
        with atomic_open(output, "wb") as file:
            np.save(file, embeddings)
        return len(prompts)
    head = next(stream(source, ["id"], batch_size=1, named=named), None)
    with PairsWriter(output, head.root if head else None) as writer:
        for batch in stream(source, batch_size=_ROWS, named=named):
            embeddings = encode(batch.prompts, loaded)
            writer.write(batch.with_columns({"embedding": embeddings}))
        return writer.rows

"""Prompt embeddings of a pairs table, computed where it has none."""

from __future__ import annotations

from unprompt.encoding import DEFAULT_ENCODER, encode
from unprompt.pairs.table import PairsTable


def with_embeddings(
    table: PairsTable, encoder: str = DEFAULT_ENCODER, progress: bool = False
) -> PairsTable:
    """The table with an embedding in every row: itself where it has them all already.

    Raises:
        UnpromptError: the encoder is not there.
    """
    if table.has("embedding") or not len(table):
        return table
    return table.with_columns({"embedding": encode(table.prompts, encoder, progress=progress)})

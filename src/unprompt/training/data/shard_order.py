"""The order in which the images of tar shards are shown: shuffled, and read nearly in sequence.

What WebDataset's loader does with shuffled shards, several of them open at once, and a shuffle
buffer, done as a permutation: a function of the random generator and of nothing else. So a run goes
on in the middle of an epoch where it was, and several processes share one order.
"""

from __future__ import annotations

import numpy as np

from unprompt.pairs.table import PairsTable
from unprompt.pairs.tar_shards import split_member

OPEN_SHARDS = 8
"""Shards that are read at once: neighbours in a batch come from so many."""

BUFFER = 10_000
"""An image comes at most so many places from where its shard would have given it."""


def shards_of(table: PairsTable) -> np.ndarray | None:
    """The number of each row's shard, int64; None where an image is in none."""
    numbers: dict[str, int] = {}
    found = []
    for file in table.column("file"):
        shard = split_member(file)
        if shard is None:
            return None
        found.append(numbers.setdefault(shard[0], len(numbers)))
    return np.array(found, np.int64)


def in_stream(
    rows: np.ndarray,
    shard_of: np.ndarray,
    random: np.random.Generator,
    open_shards: int = OPEN_SHARDS,
    buffer: int = BUFFER,
) -> np.ndarray:
    """Order rows as a stream of shuffled shards gives them.

    Args:
        rows: of a table, int64, in any order; a row may come more than once.
        shard_of: the shard of each of the table's rows; rows of a shard in the shard's order.
        random: draws the order of the shards, and of the rows within the buffer.
        open_shards: how many shards are read in turn.
        buffer: places by which a row may move.

    Returns:
        The same rows.
    """
    rows = np.sort(rows)
    shards = shard_of[rows]
    place = random.permutation(int(shard_of.max()) + 1)[shards]
    # How far into its shard a row is; rows of a shard are neighbours after a stable sort.
    by_shard = np.argsort(shards, kind="stable")
    starts = np.searchsorted(shards[by_shard], shards[by_shard])
    depth = np.empty(len(rows), np.int64)
    depth[by_shard] = np.arange(len(rows)) - starts
    stream = rows[np.lexsort((place, depth, place // open_shards))]
    return stream[np.argsort(np.arange(len(rows)) + random.uniform(0, buffer, len(rows)))]

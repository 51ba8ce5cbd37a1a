"""Which pairs or texts an epoch shows, and in what order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Sampler

from unprompt.errors import RecipeError, TableError
from unprompt.pairs.table import PairsTable
from unprompt.pairs.tar_shards import split_member
from unprompt.training.recipe_sections import Data

OPEN_SHARDS = 8
"""Shards that are read at once; neighbours in a batch come from them."""

BUFFER = 10_000
"""Places by which the shuffle buffer moves an image at most."""


class EpochSampler(Sampler[Any]):
    """Items of each epoch as a function of seed and epoch alone.

    So a resumed run gets exactly the items that were still to come, and all processes of a
    distributed run agree.
    """

    def __init__(self, seed: int):
        self._seed = seed
        self._epoch = 0

    def __len__(self) -> int:
        raise NotImplementedError

    def set_epoch(self, epoch: int) -> None:
        """Yield the items of this epoch, counted from 0, from now on."""
        self._epoch = epoch

    def _random(self) -> np.random.Generator:
        return np.random.default_rng([self._seed, self._epoch])


class Sample(NamedTuple):
    """A pair to show, and how.

    Attributes:
        row: of the training split, counted from 0.
        seed: of the augmentation.
    """

    row: int
    seed: int


class PairSampler(EpochSampler):
    """The pairs of each epoch as `Sample` objects.

    Images in tar shards come in an order that keeps few shards open at a time; see `in_stream`.

    Args:
        table: the training split.
        settings: what an epoch shows, and how often; see `Data`.
        seed: another seed gives another order.
        batch_size: an epoch never ends with a batch of a single pair, for which batch norms have no
            statistics; that pair is left to a later epoch.

    Raises:
        RecipeError: a weight is of a source that the table does not have, or no pair is left.
        TableError: an epoch should show groups and the table has none.
    """

    def __init__(self, table: PairsTable, settings: Data, seed: int, batch_size: int = 1):
        super().__init__(seed)
        self._shards = shards_of(table)
        weights = _row_weights(table, settings.weights)
        unit_of = _units(table, settings.sample_by)
        order = np.argsort(unit_of, kind="stable")
        counts = np.bincount(unit_of)
        self._members = np.split(order, np.cumsum(counts)[:-1])
        self._shares = [weights[rows] for rows in self._members]
        self._weights = np.bincount(unit_of, weights) / counts
        self._count = round(float(self._weights.sum()))
        if self._count == 0:
            raise RecipeError("data.weights leave no pair to train on; raise them")
        if batch_size > 1 and self._count > 1 and self._count % batch_size == 1:
            self._count -= 1

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Sample]:
        random = self._random()
        drawn = random.permutation(_systematic(self._weights, random))[: self._count]
        seeds = random.integers(2**63, size=len(drawn))
        rows = np.array([self._one_of(unit, random) for unit in drawn])
        if self._shards is not None:
            rows = in_stream(rows, self._shards, random)
        for row, seed in zip(rows, seeds, strict=True):
            yield Sample(int(row), int(seed))

    def _one_of(self, unit: int, random: np.random.Generator) -> int:
        rows = self._members[unit]
        if len(rows) == 1:
            return int(rows[0])
        shares = self._shares[unit]
        return int(random.choice(rows, p=shares / shares.sum()))


def _row_weights(table: PairsTable, weights: dict[str, float]) -> np.ndarray:
    sources = [source or "" for source in table.column("source")]
    if unknown := sorted(weights.keys() - set(sources)):
        known = ", ".join(sorted(set(sources)))
        raise RecipeError(
            f"data.weights: no pair of the training split is of the source '{unknown[0]}'; it has "
            f"{known}"
        )
    return np.array([weights.get(source, 1.0) for source in sources])


def _units(table: PairsTable, unit: str) -> np.ndarray:
    """For each row the number of its unit (pair, prompt or group), counted from 0 without gaps."""
    if unit == "pair":
        return np.arange(len(table))
    if unit == "group" and not table.has("group"):
        raise TableError(f"{table.name}: data.sample_by=group needs the column 'group'; run: dedup")
    _, units = np.unique(
        np.array(table.column(unit), dtype=object if unit == "prompt" else None),
        return_inverse=True,
    )
    return units


def _systematic(weights: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Each unit ⌊w⌋ or ⌈w⌉ times, w times on average: systematic sampling (Madow 1949)."""
    if (weights == 1).all():
        return np.arange(len(weights))
    order = random.permutation(len(weights))
    ends = np.cumsum(weights[order])
    total = round(float(ends[-1]))
    points = (np.arange(total) + random.random()) * ends[-1] / total
    return order[np.searchsorted(ends, points, side="right").clip(max=len(order) - 1)]


def shards_of(table: PairsTable) -> np.ndarray | None:
    """The number of each row's shard, int64; None if an image is in no shard."""
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
    """Order rows as WebDataset's loader does: shuffled shards, several open, a shuffle buffer.

    The order is a permutation that depends on the random generator alone. So a run resumes in the
    middle of an epoch, and several processes share one order.

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


class LengthSampler(EpochSampler):
    """Rows in batches of texts of about one length, which need little padding.

    The trainer's own sampler by length goes from the longest to the shortest every few dozen
    batches; here the batches are shuffled, because short and long texts differ in more than length.

    Args:
        lengths: of each row.
        batch_size: rows of a step.
        seed: of the order.
    """

    _BATCHES = 50
    """Batches that are sorted together."""

    def __init__(self, lengths: list[int], batch_size: int, seed: int):
        super().__init__(seed)
        self._lengths = np.array(lengths)
        self._size = batch_size

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        random = self._random()
        rows = random.permutation(len(self._lengths))
        batches = []
        for start in range(0, len(rows), self._BATCHES * self._size):
            chunk = rows[start : start + self._BATCHES * self._size]
            chunk = chunk[np.argsort(self._lengths[chunk], kind="stable")]
            batches += [chunk[at : at + self._size] for at in range(0, len(chunk), self._size)]
        # A batch that is not full stays last: in the middle it would shift all batches after it.
        full = [batch for batch in batches if len(batch) == self._size]
        rest = [batch for batch in batches if len(batch) < self._size]
        for batch in [*(full[index] for index in random.permutation(len(full))), *rest]:
            yield from batch.tolist()

"""Which pairs an epoch shows, and in what order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from unprompt.errors import RecipeError, TableError
from unprompt.pairs.table import PairsTable
from unprompt.training.data.shard_order import in_stream, shards_of
from unprompt.training.recipe_sections import Data


class Sample(NamedTuple):
    """One showing of a pair.

    Attributes:
        row: of the training split, counted from 0.
        seed: of the showing's augmentation.
    """

    row: int
    seed: int


class PairSampler(Sampler[Sample]):
    """The pairs of each epoch, as a function of seed and epoch and of nothing else.

    So a run that is stopped anywhere goes on with exactly the pairs that were still to come, and
    every process of a distributed run draws the same.

    Images in tar shards come in an order in which few shards are open at a time; see `in_stream`.

    Args:
        table: the training split.
        settings: what is drawn, and how often; see `Data`.
        seed: another seed gives another order.
        batch_size: an epoch never ends with a batch of a single pair, over which batch norms have
            no statistics; that pair is left to a later epoch.

    Raises:
        RecipeError: a weight is of a source that the table does not have, or nothing is left.
        TableError: groups are to be drawn and the table has none.
    """

    def __init__(self, table: PairsTable, settings: Data, seed: int, batch_size: int = 1):
        self._seed = seed
        self._epoch = 0
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

    def set_epoch(self, epoch: int) -> None:
        """Sample the pairs of this epoch, counted from 0, from now on."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[Sample]:
        random = np.random.default_rng([self._seed, self._epoch])
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
    """For each row the number of what it is drawn as, counted from 0 without gaps."""
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

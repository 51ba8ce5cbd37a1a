"""Split into train, val and test that keeps near-duplicate prompts together."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unprompt.curating.dedup.exact_search import BLOCK_SIZE, exact_search
from unprompt.curating.dedup.identical_prompts import fold
from unprompt.curating.dedup.neighbour_pairs import check_threshold, components
from unprompt.curating.encode_file import with_embeddings
from unprompt.curating.leakage import SplitLeak, split_leaks
from unprompt.encoding import DEFAULT_ENCODER
from unprompt.errors import UnpromptError
from unprompt.pairs.table import PairsTable, as_table


@dataclass(frozen=True)
class GroupSplit:
    """A table that is split by group, with figures of the split.

    Attributes:
        table: the table with the columns ``group`` and ``split``; with folds also ``fold``, which
            is null in test and in groups that are always in train.
        threshold: cosine from which two prompts belong to one group.
        rows: number of rows of each split.
        rows_by_source: number of rows of each split, for each source.
        groups: number of groups.
        largest: number of rows of the largest group.
        always_train: number of groups too large for val, test or a fold, and their rows.
        leaks: the highest cosine between every two splits, always below the threshold.
    """

    table: PairsTable
    threshold: float
    rows: dict[str, int]
    rows_by_source: dict[str, dict[str, int]]
    groups: int
    largest: int
    always_train: tuple[int, int]
    leaks: list[SplitLeak]

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {count:,}" for name, count in self.rows.items())
        lines = [
            f"{sum(self.rows.values()):,} rows in {self.groups:,} groups at cosine "
            f"{self.threshold}: {counts}; the largest group has {self.largest:,} rows"
        ]
        if self.always_train[0]:
            lines.append(
                f"{self.always_train[0]} groups are too large to be held out and stay in train "
                f"({self.always_train[1]:,} rows)"
            )
        for source, held in self.rows_by_source.items():
            missing = [name for name in self.rows if not held.get(name)]
            if missing:
                lines.append(f"source {source} has no row in {' and '.join(missing)}")
        lines += [
            f"{leak.splits[0]} and {leak.splits[1]}: highest cosine {leak.highest:.4f}, "
            f"{leak.pairs} pairs at or above {self.threshold}"
            for leak in self.leaks
        ]
        return "\n".join(lines)


def split_by_group(
    table: PairsTable | str | Path,
    val: float = 0.05,
    test: float = 0.05,
    threshold: float = 0.7,
    seed: int = 0,
    folds: int | None = None,
    *,
    encoder: str = DEFAULT_ENCODER,
    block_size: int = BLOCK_SIZE,
) -> GroupSplit:
    """Split a table so that near-duplicate prompts are never in two splits.

    Two prompts belong to one group if they have the same letters or a cosine of at least
    ``threshold``, directly or through other prompts. A group is never divided.

    Val and test take their share of each source. Groups are visited in an order that depends only
    on seed and ids; groups of more than a tenth of the share come last. A group is taken if no
    source then exceeds its share. If a split is less than half full after this, larger groups are
    taken until it is half full: each source may then have twice its share and one row more. All
    other groups stay in train. For example, the group of a template ('a photo of X') can be half of
    a table; val and test then divide the rest.

    With folds, a group goes to the fold that has the fewest rows of its sources. A group stays in
    train in every fold if it holds more than twice a fold's share, or more than half, of a source.

    Args:
        table: a pairs table, or its path; missing embeddings are computed.
        val: share of the rows for val; val and test together must be below 1.
        test: share of the rows for test.
        threshold: cosine from which two prompts belong to one group.
        seed: random seed.
        folds: number of cross-validation folds, at least 2. Rows outside test get a ``fold``, the
            split val is fold 0, and the argument ``val`` is ignored.
        encoder: encoder of missing embeddings.
        block_size: as in `deduplicate`.

    Raises:
        TableError: an embedding is zero or not finite.
        UnpromptError: shares, threshold or folds are wrong, or there are too few groups.
    """
    check_threshold(threshold)
    _check_shares(val, test, folds)
    table = as_table(table)
    if not len(table):
        raise UnpromptError(f"{table.name}: has no rows to split")
    table = with_embeddings(table, encoder)
    embeddings, prompts = table.embeddings, table.prompts
    items = fold(embeddings, prompts, name=table.name)
    found = exact_search(items.vectors, threshold, block_size=block_size)
    label = components(len(items), found)[items.item_of]
    _, first, group = np.unique(label, return_index=True, return_inverse=True)

    sources = [source or "" for source in table.column("source")]
    counts = _count(group, sources)
    visits = _visiting_order(group, table.column("id"), seed)
    split_of = np.full(len(counts), "train", dtype=object)
    fold_of = np.full(len(counts), -1)
    # Test comes first, with and without folds.
    held_out = test + (0.0 if folds else val)
    for name, share in (("test", test), ("val", held_out - test)):
        if share:
            free = split_of == "train"
            split_of[_take_share(counts, visits, free, share, held_out)] = name
            held_out -= share
    if folds:
        fold_of = _assign_folds(counts, visits, split_of == "train", folds)
        split_of[fold_of == 0] = "val"
    asked = [name for name, share in (("val", val or folds), ("test", test)) if share]
    empty = [name for name in ("train", *asked) if name not in split_of]
    if empty or (folds and len({*fold_of.tolist()} - {-1}) < folds):
        raise UnpromptError(
            f"{table.name}: its {len(table)} rows are {len(counts)} groups at threshold "
            f"{threshold}, too few or too large for the splits (empty: "
            f"{', '.join(empty) or 'a fold'}); raise the threshold or the shares"
        )

    splits = split_of[group].tolist()
    columns: dict[str, object] = {"group": first[group].tolist(), "split": splits}
    if folds:
        columns["fold"] = [None if fold < 0 else int(fold) for fold in fold_of[group]]
    if folds:
        large = (split_of == "train") & (fold_of < 0)
    else:
        large = counts.sum(1) > max(val, test) * len(table)
    names = [name for name in ("train", "val", "test") if name in split_of]
    return GroupSplit(
        table=table.with_columns(columns),
        threshold=threshold,
        rows={name: splits.count(name) for name in names},
        rows_by_source=_rows_by_source(sources, splits, names),
        groups=len(counts),
        largest=int(counts.sum(1).max()),
        always_train=(int(large.sum()), int(counts[large].sum())),
        leaks=split_leaks(embeddings, splits, threshold, prompts, block_size),
    )


def _check_shares(val: float, test: float, folds: int | None) -> None:
    if not (0 <= val < 1 and 0 <= test < 1 and val + test < 1):
        raise UnpromptError(
            f"val and test are shares of the rows, at least 0 and together below 1, not "
            f"{val} and {test}"
        )
    if folds is not None and folds < 2:
        raise UnpromptError(f"folds must be at least 2, not {folds}")


def _count(group: np.ndarray, sources: Sequence[str]) -> np.ndarray:
    """Rows of each group by source, int64 of shape (groups, sources)."""
    names, column = np.unique(np.array(sources, dtype=object), return_inverse=True)
    counts = np.zeros((int(group.max()) + 1, len(names)), np.int64)
    np.add.at(counts, (group, column), 1)
    return counts


def _visiting_order(group: np.ndarray, ids: Sequence[str], seed: int) -> np.ndarray:
    """Groups in random order, sorted by a hash of the seed and of their smallest id."""
    smallest: dict[int, str] = {}
    for number, name in zip(group.tolist(), ids, strict=True):
        smallest[number] = min(name, smallest.get(number, name))
    order = {
        number: hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=16).digest()
        for number, name in smallest.items()
    }
    return np.array(sorted(order, key=lambda number: (order[number], number)))


def _take_share(
    counts: np.ndarray, visits: np.ndarray, free: np.ndarray, share: float, held_out: float
) -> np.ndarray:
    """Groups that make up a share of the rows, if possible the same share of every source.

    ``held_out`` is the share of this and all later splits together. If too few groups can be held
    out, the splits divide them in proportion.
    """
    size = counts.sum(1)
    wanted = max(1, round(share * size.sum()))
    even = share * counts.sum(0)
    possible = free & (size <= wanted) & (counts <= even + 0.5).all(1)
    # Half a row more, so that rounding does not exclude the last row of a source.
    strict = np.minimum(even, counts[possible].sum(0) * share / held_out) + 0.5
    small_first = visits[np.argsort(size[visits] > max(1, 0.1 * wanted), kind="stable")]
    taken: list[int] = []
    held = np.zeros_like(even)
    for space, enough in ((strict, wanted), (2 * even + 1, wanted / 2)):
        for number in small_first:
            rows = held.sum()
            if rows >= enough:
                break
            fits = rows + size[number] <= wanted and (held + counts[number] <= space).all()
            if free[number] and fits:
                taken.append(int(number))
                free[number] = False
                held += counts[number]
    return np.array(taken, dtype=np.int64)


def _assign_folds(
    counts: np.ndarray, visits: np.ndarray, free: np.ndarray, folds: int
) -> np.ndarray:
    """Fold of each group, -1 for none. Large groups are placed first; see `split_by_group`."""
    size = counts.sum(1)
    share = counts[free].sum(0).clip(1)
    limit = min(2 / folds, 0.5) * share
    filled = np.zeros((folds, counts.shape[1]))
    fold_of = np.full(len(counts), -1)
    for number in visits[np.argsort(-size[visits], kind="stable")]:
        if free[number] and (counts[number] <= limit).all():
            crowding = filled @ (counts[number] / share**2)
            fold_of[number] = crowding.argmin()
            filled[fold_of[number]] += counts[number]
    return fold_of


def _rows_by_source(
    sources: Sequence[str], splits: Sequence[str], names: Sequence[str]
) -> dict[str, dict[str, int]]:
    table: dict[str, dict[str, int]] = {}
    for source, split in zip(sources, splits, strict=True):
        held = table.setdefault(source or "(none)", dict.fromkeys(names, 0))
        held[split] += 1
    return table

"""Near-duplicate prompts: which rows to keep, which to remove, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from unprompt.curating.dedup.approximate_search import approximate_search, measure_recall
from unprompt.curating.dedup.exact_search import BLOCK_SIZE, exact_search
from unprompt.curating.dedup.identical_prompts import KEEP_RULES, Items, fold
from unprompt.curating.dedup.neighbour_pairs import (
    MAX_PAIRS,
    NeighbourPairs,
    check_threshold,
    collect,
    components,
)
from unprompt.curating.encode_file import with_embeddings
from unprompt.encoding import DEFAULT_ENCODER
from unprompt.errors import UnpromptError
from unprompt.pairs.table import PairsTable, as_table


@dataclass(frozen=True)
class Deduplication:
    """The near-duplicates of a set of prompts, and which of them are kept.

    Two rows are near-duplicates if their prompts have the same letters or the cosine of their
    embeddings is at least ``threshold``. Rows with the same letters are one item; ``keep`` chooses
    the row whose embedding is searched. Rows are counted from 0.

    Attributes:
        threshold: cosine from which two items are near-duplicates.
        searched: threshold of the search, the lowest one that `rethreshold` accepts.
        keep: the rule, ``first``, ``longest`` or ``central``.
        items: the distinct items.
        pairs: all pairs of items (not rows) whose cosine is at least ``searched``.
        prompts: the prompts, if they are known.
        recall: share of the pairs that an approximate search found, measured on a sample; None
            after an exact search, which finds all pairs.
    """

    threshold: float
    searched: float
    keep: str
    items: Items
    pairs: NeighbourPairs
    prompts: Sequence[str] | None = None
    recall: float | None = None

    def __len__(self) -> int:
        return len(self.items.item_of)

    @cached_property
    def representative_of(self) -> np.ndarray:
        """The kept row that replaces each row, int64 of shape (rows,).

        A kept row represents itself. A removed row is represented by its kept near-duplicate with
        the highest cosine, or the earliest one if several have this cosine.
        """
        return self.items.rows[self._kept_item_of[self.items.item_of]]

    @cached_property
    def kept(self) -> np.ndarray:
        """Rows to keep, int64, ascending.

        ``keep`` states the order in which items are visited. ``first``: row order; ``longest``: the
        longest prompt first; ``central``: the item with the most near-duplicate rows first. Ties
        are visited in row order. An item is kept if none of its near-duplicates has been kept. So
        every removed item has a kept near-duplicate, and no two kept items are near-duplicates.
        """
        return np.unique(self.representative_of)

    @cached_property
    def removed(self) -> np.ndarray:
        """Rows to remove, int64, ascending."""
        return np.setdiff1d(np.arange(len(self)), self.kept, assume_unique=True)

    @cached_property
    def group_of(self) -> np.ndarray:
        """Group of each row, named by the smallest row of the group: int64 of shape (rows,).

        Groups are the connected components of near-duplicates, so two rows of one group need not
        be near-duplicates of each other.
        """
        label = components(len(self.items), self._edges.chunks())[self.items.item_of]
        _, first, group = np.unique(label, return_index=True, return_inverse=True)
        return first[group]

    @cached_property
    def groups(self) -> list[np.ndarray]:
        """Rows of each group of two or more, the largest group first, then by first row."""
        order = np.argsort(self.group_of, kind="stable")
        starts = np.flatnonzero(np.diff(self.group_of[order], prepend=-1))
        groups = [rows for rows in np.split(order, starts[1:]) if len(rows) > 1]
        return sorted(groups, key=lambda rows: (-len(rows), rows[0]))

    @cached_property
    def similarity(self) -> np.ndarray:
        """Cosine between the items of each row and of its representative, float32; 1 if kept."""
        found = np.ones(len(self.items), np.float32)
        found[self._best[0]] = self._best[2]
        return found[self.items.item_of]

    def rethreshold(self, threshold: float) -> Deduplication:
        """The result at another threshold, equal to the result of a new search.

        Raises:
            UnpromptError: the threshold is below that of the search.
        """
        check_threshold(threshold)
        if threshold < self.searched:
            raise UnpromptError(
                f"the search stopped at {self.searched}, so {threshold} needs a new search; call "
                "deduplicate with the lower threshold"
            )
        return replace(self, threshold=threshold)

    def summary(self) -> dict[str, float | int | str]:
        """Counts: rows, distinct items, pairs, groups, the largest group, kept and removed."""
        counts: dict[str, float | int | str] = {
            "threshold": self.threshold,
            "keep": self.keep,
            "rows": len(self),
            "distinct": len(self.items),
            "pairs": len(self._edges),
            "groups": len(self.groups),
            "largest_group": max((len(rows) for rows in self.groups), default=min(len(self), 1)),
            "kept": len(self.kept),
            "removed": len(self.removed),
        }
        return counts if self.recall is None else {**counts, "recall": self.recall}

    @cached_property
    def _edges(self) -> NeighbourPairs:
        if self.threshold == self.searched:
            return self.pairs
        return self.pairs.at_least(self.threshold)

    @cached_property
    def _kept_item_of(self) -> np.ndarray:
        kept_item = np.arange(len(self.items))
        kept_item[self._best[0]] = self._best[1]
        return kept_item

    @cached_property
    def _best(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Removed items, the nearest kept item of each, and their cosine."""
        edges = self._edges
        kept = _greedy(_rank(self.items, edges, self.keep, self.prompts), edges)
        highest = np.full(len(self.items), -2, np.float32)
        held: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for half in ((edges.first, edges.second), (edges.second, edges.first)):
            # Edges between a kept and a removed item, from either end.
            between = np.flatnonzero(kept[half[0]] & ~kept[half[1]])
            keeper, removed = half[0][between], half[1][between]
            np.maximum.at(highest, removed, edges.cosine[between])
            held.append((removed, keeper, edges.cosine[between]))
        removed, keeper, cosine = (np.concatenate(halves) for halves in zip(*held, strict=True))
        nearest = cosine == highest[removed]
        removed, keeper, cosine = removed[nearest], keeper[nearest], cosine[nearest]
        order = np.lexsort((self.items.rows[keeper], removed))
        removed, keeper, cosine = removed[order], keeper[order], cosine[order]
        _, first = np.unique(removed, return_index=True)
        return removed[first], keeper[first], cosine[first]


def deduplicate(
    items: PairsTable | str | Path | np.ndarray,
    threshold: float = 0.9,
    keep: str = "first",
    *,
    prompts: Sequence[str] | None = None,
    block_size: int = BLOCK_SIZE,
    max_pairs: int = MAX_PAIRS,
    device: str | None = None,
    approximate: bool = False,
    encoder: str = DEFAULT_ENCODER,
) -> Deduplication:
    """Find the near-duplicate prompts of a table or of embeddings, exactly.

    Block size, number of threads and device do not change the result.

    Args:
        items: a pairs table or its path; missing embeddings are computed. Or a float array of shape
            (n, dim), of any scale.
        threshold: cosine from which two prompts are near-duplicates, above 0 and at most 1.
        keep: which near-duplicate is kept: the ``first`` in row order, the ``longest`` prompt, or
            the most ``central`` one, which has the most near-duplicate rows.
        prompts: n prompts, if ``items`` is an array; prompts with the same letters are one item.
        block_size: rows multiplied at a time; more take more memory.
        max_pairs: greatest number of pairs in the result, 12 bytes each.
        device: a torch device name, such as ``cuda:1``; by default a GPU if torch finds one.
        approximate: search with Faiss IVF, for five million rows or more. It misses some pairs;
            ``recall`` states the share that it finds.
        encoder: encoder of missing embeddings.

    Raises:
        TableError: an embedding is zero or not finite.
        UnpromptError: threshold or rule are wrong, or there are more than ``max_pairs`` pairs.
    """
    check_threshold(threshold)
    if keep not in KEEP_RULES:
        raise UnpromptError(f"keep must be one of {', '.join(KEEP_RULES)}, not '{keep}'")
    name = "embeddings"
    if not isinstance(items, np.ndarray):
        items = with_embeddings(as_table(items), encoder)
        name, prompts, items = items.name, items.prompts, items.embeddings
    if keep == "longest" and prompts is None:
        raise UnpromptError("keep='longest' needs the prompts; pass prompts=, or a pairs table")
    folded = fold(items, prompts, keep, name)
    if approximate:
        found = approximate_search(folded.vectors, threshold)
    else:
        found = exact_search(folded.vectors, threshold, None, block_size, device)
    pairs = collect(found, max_pairs)
    recall = measure_recall(folded.vectors, threshold, pairs) if approximate else None
    return Deduplication(threshold, threshold, keep, folded, pairs, prompts, recall)


def _rank(
    items: Items, edges: NeighbourPairs, keep: str, prompts: Sequence[str] | None
) -> np.ndarray:
    """Position of each item in the order of visits, int32."""
    first_row = items.rows
    if keep == "first":
        order = np.argsort(first_row, kind="stable")
    elif keep == "longest":
        assert prompts is not None  # noqa: S101 - deduplicate has refused this
        length = np.array([len(prompts[row]) for row in items.rows])
        order = np.lexsort((first_row, -length))
    else:
        size = items.sizes.astype(np.float64)
        reach = size + np.bincount(edges.first, size[edges.second], len(items))
        reach += np.bincount(edges.second, size[edges.first], len(items))
        order = np.lexsort((first_row, -reach))
    rank = np.empty(len(items), np.int32)
    rank[order] = np.arange(len(items))
    return rank


def _greedy(rank: np.ndarray, edges: NeighbourPairs) -> np.ndarray:
    """Visit items by rank, each dropping its later neighbours: bool, true for kept items."""
    earlier, later = rank[edges.first], rank[edges.second]
    swapped = np.flatnonzero(earlier > later)
    earlier[swapped], later[swapped] = later[swapped], earlier[swapped]
    if len(swapped) or (earlier[1:] < earlier[:-1]).any():
        order = np.argsort(earlier, kind="stable")
        earlier, later = earlier[order], later[order]
    bounds = np.searchsorted(earlier, np.arange(len(rank) + 1, dtype=np.int32))
    kept = np.ones(len(rank), bool)
    for visited in np.flatnonzero(np.diff(bounds)):
        if kept[visited]:
            kept[later[bounds[visited] : bounds[visited + 1]]] = False
    return kept[rank]

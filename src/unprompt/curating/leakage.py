"""Leakage: prompts of one set that are near-duplicates of prompts in another set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from unprompt.curating.dedup.exact_search import BLOCK_SIZE, exact_search, highest
from unprompt.curating.dedup.identical_prompts import fold, letter_key
from unprompt.curating.dedup.neighbour_pairs import NeighbourPairs, collect
from unprompt.errors import TableError
from unprompt.pairs.schema import SPLITS
from unprompt.pairs.table import PairsTable


@dataclass(frozen=True)
class SplitLeak:
    """Leakage between two splits.

    Attributes:
        splits: the two splits, such as ``("train", "val")``.
        highest: highest cosine between a prompt of one split and a prompt of the other; 1 if both
            splits have a prompt with the same letters; NaN if one split is empty.
        rows: the two rows with that cosine, counted from 0; (-1, -1) if one split is empty.
        pairs: number of pairs of distinct prompts, one from each split, whose cosine is at least
            the threshold.
        leaking: number of rows of the second split with a near-duplicate in the first.
    """

    splits: tuple[str, str]
    highest: float
    rows: tuple[int, int]
    pairs: int
    leaking: int


def split_leaks(
    embeddings: np.ndarray,
    splits: Sequence[str | None],
    threshold: float,
    prompts: Sequence[str] | None = None,
    block_size: int = BLOCK_SIZE,
) -> list[SplitLeak]:
    """Measure the leakage between every two of the splits train, val and test, exactly.

    Args:
        embeddings: float array of shape (n, dim).
        splits: the split of each row; rows without one are ignored.
        threshold: cosine from which two prompts are near-duplicates.
        prompts: n prompts; rows with the same letters count as one prompt.
        block_size: as in `deduplicate`.

    Raises:
        TableError: lengths differ, or an embedding is zero or not finite.
    """
    if len(splits) != len(embeddings):
        raise TableError(f"{len(splits)} splits but {len(embeddings)} embeddings")
    items = fold(embeddings, prompts)
    labels = np.array([split or "" for split in splits], dtype=object)
    present = [name for name in SPLITS if name in {*splits}]
    return [
        _leak(items.vectors, items.item_of, labels, pair, threshold, block_size)
        for pair in combinations(present, 2)
    ]


def _leak(
    vectors: np.ndarray,
    item_of: np.ndarray,
    labels: np.ndarray,
    splits: tuple[str, str],
    threshold: float,
    block_size: int,
) -> SplitLeak:
    rows = [np.flatnonzero(labels == split) for split in splits]
    (seen, seen_row), (held, held_row) = (
        np.unique(item_of[of_split], return_index=True) for of_split in rows
    )
    found = collect(exact_search(vectors[held], threshold, vectors[seen], block_size))
    if len(found):
        # The cosine of an item that is in both splits is 1, despite rounding.
        cosine = np.where(held[found.first] == seen[found.second], np.float32(1), found.cosine)
        best = int(cosine.argmax())
        i, j, value = int(found.first[best]), int(found.second[best]), float(cosine[best])
    else:
        i, j, value = highest(vectors[held], vectors[seen], block_size)
    leaking = np.isin(item_of[rows[1]], held[np.unique(found.first)])
    return SplitLeak(
        splits,
        value,
        (int(rows[0][seen_row[j]]), int(rows[1][held_row[i]])),
        len(found),
        int(leaking.sum()),
    )


@dataclass(frozen=True)
class Overlap:
    """Rows of one set with and without near-duplicates in another set.

    Attributes:
        kept: rows without a near-duplicate in the other set, int64, ascending.
        removed: rows with a near-duplicate in the other set, int64, ascending.
        match_of: the row of the other set with the highest cosine to each removed row, int64.
        cosine: that cosine, float32.
    """

    kept: np.ndarray
    removed: np.ndarray
    match_of: np.ndarray
    cosine: np.ndarray


def find_overlap(
    items: PairsTable | np.ndarray,
    against: PairsTable | np.ndarray,
    threshold: float = 0.9,
    *,
    prompts: Sequence[str] | None = None,
    against_prompts: Sequence[str] | None = None,
    block_size: int = BLOCK_SIZE,
    device: str | None = None,
) -> Overlap:
    """Find the rows of one set that are near-duplicates of any row of another, exactly.

    Args:
        items: a pairs table with embeddings, or a float array of shape (n, dim).
        against: the other set, a table or an array of the same width.
        threshold: cosine from which two prompts are near-duplicates.
        prompts: n prompts, if ``items`` is an array.
        against_prompts: the other set's prompts, if ``against`` is an array.
        block_size: as in `deduplicate`.
        device: as in `deduplicate`.

    Raises:
        TableError: embeddings are missing, of different widths, zero or not finite.
    """
    name, other_name = "embeddings", "embeddings to compare with"
    if isinstance(items, PairsTable):
        name, prompts, items = items.name, items.prompts, items.embeddings
    if isinstance(against, PairsTable):
        other_name, against_prompts, against = against.name, against.prompts, against.embeddings
    if items.shape[1:] != against.shape[1:]:
        raise TableError(
            f"{name} has embeddings of width {items.shape[1]}, {other_name} of width "
            f"{against.shape[1]}; encode both with the same encoder"
        )
    ours = fold(items, prompts, name=name)
    theirs = fold(against, against_prompts, name=other_name)
    match = np.full(len(ours), -1, np.int64)
    cosine = np.full(len(ours), -1, np.float32)
    pairs = exact_search(ours.vectors, threshold, theirs.vectors, block_size, device)
    for found in pairs:
        _keep_best(match, cosine, found)
    if prompts is not None and against_prompts is not None:
        item_by_key: dict[str, int] = {}
        for prompt, item in zip(against_prompts, theirs.item_of.tolist(), strict=True):
            item_by_key.setdefault(letter_key(prompt), item)
        for row, prompt in reversed([*enumerate(prompts)]):
            if (item := item_by_key.get(letter_key(prompt))) is not None:
                match[ours.item_of[row]], cosine[ours.item_of[row]] = item, 1
    hit = match[ours.item_of] >= 0
    removed = np.flatnonzero(hit)
    item = ours.item_of[removed]
    return Overlap(np.flatnonzero(~hit), removed, theirs.rows[match[item]], cosine[item])


def _keep_best(match: np.ndarray, cosine: np.ndarray, found: NeighbourPairs) -> None:
    # Sort by row, falling cosine, other row; the first pair of each row is the best.
    order = np.lexsort((found.second, -found.cosine, found.first))
    rows, first = np.unique(found.first[order], return_index=True)
    match[rows] = found.second[order][first]
    cosine[rows] = found.cosine[order][first]

"""Prompts that are the same to the letter, folded to one item before any search."""

from __future__ import annotations

import hashlib
import re
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from unprompt.curating.dedup.neighbours import normalise
from unprompt.errors import TableError

KEEP_RULES = ("first", "longest", "central")


@dataclass(frozen=True)
class Items:
    """Rows folded to distinct items.

    Attributes:
        rows: int64 of shape (items,), ascending where the rule is ``first``; the row that stands
            for each item. Items are numbered by their first row.
        item_of: int64 of shape (rows,); the item of each row.
        vectors: unit embeddings of the items, float32 of shape (items, dim).
    """

    rows: np.ndarray
    item_of: np.ndarray
    vectors: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def sizes(self) -> np.ndarray:
        """Rows of each item, int64 of shape (items,)."""
        return np.bincount(self.item_of, minlength=len(self.rows))


def letter_key(prompt: str) -> str:
    """The prompt without what does not count: case, punctuation, and the amount of space.

    A prompt of nothing but punctuation keeps it.
    """
    folded = unicodedata.normalize("NFKC", prompt).casefold()
    return _separators().sub(" ", folded).strip() or folded.strip()


@lru_cache(maxsize=1)
def _separators() -> re.Pattern[str]:
    # Not \W: that would drop combining marks, which tell words of Indic scripts apart.
    points = range(sys.maxunicode + 1)
    marks = "".join(chr(point) for point in points if unicodedata.category(chr(point))[0] in "PZ")
    return re.compile(f"[\\s{re.escape(marks)}]+")


def fold(
    embeddings: np.ndarray,
    prompts: Sequence[str] | None = None,
    keep: str = "first",
    name: str = "embeddings",
) -> Items:
    """Fold rows with the same letters, or the same embedding, to one item.

    Args:
        embeddings: float array of shape (n, dim), of any length per row.
        prompts: n prompts; without them only rows with equal embeddings are folded.
        keep: which row stands for an item: its ``longest`` prompt, else its first row.
        name: what errors call the rows.

    Raises:
        TableError: counts differ, or an embedding is zero or not finite.
    """
    if prompts is not None and len(prompts) != len(embeddings):
        raise TableError(f"{name}: {len(prompts)} prompts but {len(embeddings)} embeddings")
    if prompts is None:
        item_of = np.arange(len(embeddings))
    else:
        seen: dict[str, int] = {}
        item_of = np.fromiter(
            (seen.setdefault(letter_key(prompt), len(seen)) for prompt in prompts),
            np.int64,
            len(prompts),
        )
    rows = _standing_rows(item_of, prompts, keep)
    vectors = normalise(embeddings, name, rows)
    same = _equal_rows(vectors)
    if same.max(initial=-1) + 1 < len(vectors):
        vectors = vectors[np.unique(same, return_index=True)[1]]
        item_of = same[item_of]
        rows = _standing_rows(item_of, prompts, keep)
    return Items(rows, item_of, vectors)


def _standing_rows(item_of: np.ndarray, prompts: Sequence[str] | None, keep: str) -> np.ndarray:
    order = np.arange(len(item_of))
    if keep == "longest" and prompts is not None:
        order = np.lexsort((order, np.array([-len(prompt) for prompt in prompts])))
    _, position = np.unique(item_of[order], return_index=True)
    return order[position]


def _equal_rows(vectors: np.ndarray) -> np.ndarray:
    """For each row a number that equal rows share, counted by first appearance without gaps."""
    # Only rows that repeat another's first two values can equal another; hash no others.
    begin = np.zeros((len(vectors), 2), np.float32)
    begin[:, : vectors.shape[1]] = vectors[:, :2]
    _, inverse, counts = np.unique(
        begin.view(np.uint64).ravel(), return_inverse=True, return_counts=True
    )
    first = np.arange(len(vectors))
    seen: dict[bytes, int] = {}
    for row in np.flatnonzero(counts[inverse] > 1):
        digest = hashlib.blake2b(vectors[row].tobytes(), digest_size=16).digest()
        first[row] = seen.setdefault(digest, int(row))
    return np.cumsum(first == np.arange(len(first)))[first] - 1

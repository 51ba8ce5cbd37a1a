"""Folding of identical prompts to one item, before the search for near-duplicates."""

from __future__ import annotations

import hashlib
import re
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from unprompt.curating.dedup.neighbour_pairs import normalise
from unprompt.errors import TableError

KEEP_RULES = ("first", "longest", "central")


@dataclass(frozen=True)
class Items:
    """Distinct items of a set of rows; identical rows are one item.

    Attributes:
        rows: int64 of shape (items,); the row that represents each item, ascending if the rule is
            ``first``. Items are numbered in the order of their first rows.
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
        """Number of rows of each item, int64 of shape (items,)."""
        return np.bincount(self.item_of, minlength=len(self.rows))


def letter_key(prompt: str) -> str:
    """The prompt in lower case, with punctuation and white space replaced by single spaces.

    Prompts with the same key count as identical. If a prompt has only punctuation, it is kept.
    """
    folded = unicodedata.normalize("NFKC", prompt).casefold()
    return _separators().sub(" ", folded).strip() or folded.strip()


@lru_cache(maxsize=1)
def _separators() -> re.Pattern[str]:
    # \W would also match combining marks, which distinguish words of Indic scripts.
    points = range(sys.maxunicode + 1)
    marks = "".join(chr(point) for point in points if unicodedata.category(chr(point))[0] in "PZ")
    return re.compile(f"[\\s{re.escape(marks)}]+")


def fold(
    embeddings: np.ndarray,
    prompts: Sequence[str] | None = None,
    keep: str = "first",
    name: str = "embeddings",
) -> Items:
    """Fold rows with the same `letter_key`, or the same embedding, to one item.

    Args:
        embeddings: float array of shape (n, dim); rows need not have unit length.
        prompts: n prompts; without them only rows with equal embeddings are folded.
        keep: rule for the row that represents an item: ``longest`` takes its longest prompt, every
            other rule its first row.
        name: name of the rows in errors.

    Raises:
        TableError: the numbers of prompts and embeddings differ, or an embedding is zero or not
            finite.
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
    rows = _chosen_rows(item_of, prompts, keep)
    vectors = normalise(embeddings, name, rows)
    same = _equal_rows(vectors)
    if same.max(initial=-1) + 1 < len(vectors):
        vectors = vectors[np.unique(same, return_index=True)[1]]
        item_of = same[item_of]
        rows = _chosen_rows(item_of, prompts, keep)
    return Items(rows, item_of, vectors)


def _chosen_rows(item_of: np.ndarray, prompts: Sequence[str] | None, keep: str) -> np.ndarray:
    order = np.arange(len(item_of))
    if keep == "longest" and prompts is not None:
        order = np.lexsort((order, np.array([-len(prompt) for prompt in prompts])))
    _, position = np.unique(item_of[order], return_index=True)
    return order[position]


def _equal_rows(vectors: np.ndarray) -> np.ndarray:
    """The number of each row's distinct value, counted from 0 in the order of appearance."""
    # Equal rows share their first two values; hash only rows that share these with another row.
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

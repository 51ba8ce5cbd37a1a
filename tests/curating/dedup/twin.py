"""The brute-force twin: what the near-duplicate functions mean, in the plainest numpy there is."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

import numpy as np


def unit(embeddings: np.ndarray) -> np.ndarray:
    rows = embeddings.astype(np.float64)
    # Plus zero, so that -0.0 and 0.0 are one value.
    return (rows / np.sqrt((rows * rows).sum(1, keepdims=True))).astype(np.float32) + np.float32(0)


def cosines(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """All cosines in 80-bit floats, rounded once: float32 of shape (rows, others)."""
    products = rows.astype(np.longdouble)[:, None] * others.astype(np.longdouble)
    return products.sum(-1).astype(np.float32)


def letters(prompt: str) -> str:
    folded = unicodedata.normalize("NFKC", prompt).casefold()
    plain = "".join(
        " " if char.isspace() or unicodedata.category(char)[0] in "PZ" else char for char in folded
    )
    return " ".join(plain.split()) or folded.strip()


@dataclass
class Twin:
    kept: list[int]
    group_of: list[int]
    representative_of: list[int]
    pairs: list[tuple[int, int]]


def deduplicate(
    embeddings: np.ndarray, threshold: float, keep: str, prompts: list[str] | None = None
) -> Twin:
    rows = range(len(embeddings))
    # Rows with the same letters are one item, and items with equal embeddings are one.
    item = {row: row for row in rows}
    if prompts is not None:
        first_with: dict[str, int] = {}
        item = {row: first_with.setdefault(letters(prompts[row]), row) for row in rows}
    stands = {
        of: _stands([r for r in rows if item[r] == of], keep, prompts) for of in item.values()
    }
    vectors = unit(embeddings[[stands[item[row]] for row in rows]])
    same: dict[bytes, int] = {}
    item = {row: same.setdefault(vectors[row].tobytes(), row) for row in rows}
    members = {of: [r for r in rows if item[r] == of] for of in sorted(set(item.values()))}
    stands = {of: _stands(members[of], keep, prompts) for of in members}

    cosine = cosines(vectors, vectors)
    near = {of: set() for of in members}
    for one in members:
        for other in members:
            if one < other and cosine[one, other] >= np.float32(threshold):
                near[one].add(other)
                near[other].add(one)

    def place(of: int) -> tuple[int, int]:
        if keep == "longest":
            return -len(prompts[stands[of]]), stands[of]
        if keep == "central":
            return -len(members[of]) - sum(len(members[n]) for n in near[of]), stands[of]
        return 0, stands[of]

    kept: set[int] = set()
    for of in sorted(members, key=place):
        if not near[of] & kept:
            kept.add(of)

    best = {}
    for of in members:
        keepers = [of] if of in kept else sorted(near[of] & kept)
        best[of] = max(keepers, key=lambda k: (cosine[of, k], -stands[k]))

    group: dict[int, int] = {}
    for of in members:
        stack = [of] if of not in group else []
        while stack:
            one = stack.pop()
            if one not in group:
                group[one] = min(members[of])
                stack += near[one]

    return Twin(
        kept=sorted(stands[of] for of in kept),
        group_of=[group[item[row]] for row in rows],
        representative_of=[stands[best[item[row]]] for row in rows],
        pairs=sorted((stands[one], stands[n]) for one in members for n in near[one] if one < n),
    )


def _stands(members: list[int], keep: str, prompts: list[str] | None) -> int:
    if keep == "longest" and prompts is not None:
        return min(members, key=lambda row: (-len(prompts[row]), row))
    return min(members)

"""Exact search for all pairs of prompt embeddings whose cosine reaches a threshold.

First a screen multiplies short vectors (`unprompt.curating.dedup.cosine_bounds`) to find every pair
that could reach the threshold. Then `unprompt.curating.dedup.neighbour_pairs.confirm` computes the
cosine of each candidate and compares it with the threshold. So the result does not depend on block
size, threads or device.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from unprompt.curating.dedup.cosine_bounds import (
    choose_width,
    encode,
    leading_axes,
    least_product,
    shorten,
)
from unprompt.curating.dedup.neighbour_pairs import (
    NeighbourPairs,
    check_threshold,
    confirm,
    cosines,
    rounding_margin,
)
from unprompt.devices import choose_device, one_core_a_thread
from unprompt.errors import MissingExtraError
from unprompt.parallel import cores, in_order
from unprompt.progress import track

BLOCK_SIZE = 512
"""Rows of one block. The products of two blocks take 1 MB and stay in the cache of a core, so a
search is 10 % faster than with blocks of 1,024 rows."""

_FEW = 5_000_000_000
"""For at most this many products, numpy takes less time than the import of torch."""
_CUDA_BLOCKS = 32
"""How much larger a block is on a GPU."""
_PENDING = 65_536
"""Candidates that are collected before one call confirms them."""


def exact_search(
    embeddings: np.ndarray,
    threshold: float,
    others: np.ndarray | None = None,
    block_size: int = BLOCK_SIZE,
    device: str | None = None,
) -> Iterator[NeighbourPairs]:
    """Yield all pairs whose cosine is at least ``threshold``, exactly.

    Args:
        embeddings: unit rows as from `normalise`, float32 of shape (n, dim).
        threshold: lowest cosine of a pair, above 0 and at most 1.
        others: a second set of shape (m, dim), to find pairs between the two sets. Without it, each
            pair within ``embeddings`` is yielded once, with ``first < second``.
        block_size: rows multiplied at a time; more take more memory.
        device: a torch device name, such as ``cuda:1``; by default a GPU if torch finds one.

    Yields:
        Chunks of pairs, which are sorted when joined in their order.

    Raises:
        UnpromptError: the threshold is wrong, or torch cannot use the device.
    """
    check_threshold(threshold)
    right = embeddings if others is None else others
    if not len(embeddings) or not len(right):
        return
    screen = _screen(embeddings, others, threshold, block_size, device)
    block = screen.block_size

    def block_row(top: int) -> NeighbourPairs:
        found: list[NeighbourPairs] = []
        pending: list[tuple[np.ndarray, np.ndarray]] = []
        count = 0
        starts = range(top if others is None else 0, len(right), block)
        for left in starts:
            first, second = screen(top, left)
            if others is None and left == top:
                upper = first < second
                first, second = first[upper], second[upper]
            pending.append((first, second))
            count += len(first)
            if left == starts[-1] or count >= _PENDING:
                first, second = (np.concatenate(half) for half in zip(*pending, strict=True))
                found.append(confirm(embeddings, right, first, second, threshold))
                pending, count = [], 0
        return NeighbourPairs.concatenate(found).in_order()

    tops = range(0, len(embeddings), block)
    rows = _on_all_cores(block_row, tops, screen.workers)
    yield from track(rows, "Searching near-duplicates", len(tops))


def highest(
    left: np.ndarray, right: np.ndarray, block_size: int = BLOCK_SIZE
) -> tuple[int, int, float]:
    """The pair of a row of ``left`` and a row of ``right`` with the highest cosine.

    Args:
        left: unit rows, float32 of shape (n, dim).
        right: unit rows, float32 of shape (m, dim).
        block_size: rows multiplied at a time.

    Returns:
        Row of ``left``, row of ``right`` and their cosine; if several pairs have it, the first in
        row order. (-1, -1, NaN) if a set is empty.
    """
    margin = np.float32(2 * rounding_margin(left.shape[1]))
    best = np.float32(-2)
    held: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for top in range(0, len(left), block_size):
        for start in range(0, len(right), block_size):
            scores = left[top : top + block_size] @ right[start : start + block_size].T
            if (peak := scores.max()) >= best - margin:
                best = max(best, peak)
                i, j = np.nonzero(scores >= best - margin)
                held.append((i + top, j + start, scores[i, j]))
    if not held:
        return -1, -1, float("nan")
    i, j, score = (np.concatenate(parts) for parts in zip(*held, strict=True))
    near = score >= best - margin
    i, j = i[near], j[near]
    cosine = cosines(left, right, i, j)
    order = np.lexsort((j, i, -cosine))[0]
    return int(i[order]), int(j[order]), float(cosine[order])


def _screen(
    embeddings: np.ndarray,
    others: np.ndarray | None,
    threshold: float,
    block_size: int,
    device: str | None,
) -> FloatScreen | IntegerScreen:
    right = embeddings if others is None else others
    axes = leading_axes(right)
    width = choose_width(embeddings, right, axes, threshold)
    short = shorten(embeddings, axes, width)
    other_short = short if others is None else shorten(others, axes, width)
    few = len(embeddings) * len(right) <= _FEW
    has_torch = importlib.util.find_spec("torch") is not None
    if device in (None, "cpu") and (few or not has_torch):
        return FloatScreen(short, other_short, threshold, block_size)
    if not has_torch:
        raise MissingExtraError("torch", "train")
    device = choose_device(device)
    if device == "cpu" and not _integers_are_fast():
        return FloatScreen(short, other_short, threshold, block_size)
    return IntegerScreen(short, other_short, threshold, block_size, device)


def _integers_are_fast() -> bool:
    """Whether torch multiplies int8 faster than float32 on this processor.

    It does with AVX-512, and several times faster with VNNI; otherwise torch may use plain loops.
    A timed trial would be unreliable on a busy computer.
    """
    import torch

    wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return wide and torch.backends.mkldnn.is_available()


class FloatScreen:
    """Finds candidates by products of short vectors in float32, with numpy."""

    workers = 1  # numpy uses every core for one product

    def __init__(self, short: np.ndarray, others: np.ndarray, threshold: float, block_size: int):
        self.block_size = block_size
        self._short = short.astype(np.float32)
        self._others = self._short if others is short else others.astype(np.float32)
        self._least = np.float32(threshold - rounding_margin(short.shape[1]) - 1e-6)

    def __call__(self, top: int, left: int) -> tuple[np.ndarray, np.ndarray]:
        """Candidates between the block of rows at ``top`` and the block of others at ``left``.

        Returns:
            Row and other row of each candidate, in any order.
        """
        rows = self._short[top : top + self.block_size]
        scores = rows @ self._others[left : left + self.block_size].T
        i, j = _at_least(scores, self._least)
        return i + top, j + left


class IntegerScreen:
    """Finds candidates by products of int8 codes, with torch, on a CPU or a GPU."""

    def __init__(
        self,
        short: np.ndarray,
        others: np.ndarray,
        threshold: float,
        block_size: int,
        device: str,
    ):
        import torch

        self._torch: Any = torch
        self._on_cpu = device == "cpu"
        self.workers = cores() if self._on_cpu else 1
        self.block_size = block_size if self._on_cpu else block_size * _CUDA_BLOCKS
        self._threshold = threshold
        self._step = max(float(np.abs(half).max()) for half in (short, others)) / 127
        self._rows, self._row_error = self._blocks(short, device)
        same = others is short
        self._columns, self._column_error = (
            (self._rows, self._row_error) if same else self._blocks(others, device)
        )
        self._count, self._other_count = len(short), len(others)
        self._own = threading.local()

    def _blocks(self, short: np.ndarray, device: str) -> tuple[Any, np.ndarray]:
        """Codes, padded with zeros to whole blocks, and the largest error of each block."""
        codes = encode(short, self._step)
        blocks = -(-len(codes) // self.block_size)
        # The kernels need multiples of 8 in both directions; zeros do not change a product.
        side = max(-(-self.block_size // 32) * 32, 32)
        width = -(-short.shape[1] // 8) * 8
        values = np.zeros((blocks, side, width), np.int8)
        for block in range(blocks):
            part = codes.values[block * self.block_size : (block + 1) * self.block_size]
            values[block, : len(part), : short.shape[1]] = part
        starts = np.arange(0, len(codes), self.block_size)
        error = np.maximum.reduceat(codes.error, starts)
        return self._torch.from_numpy(values).to(device), error

    def __call__(self, top: int, left: int) -> tuple[np.ndarray, np.ndarray]:
        """Candidates between two blocks; see `FloatScreen`."""
        block, other = top // self.block_size, left // self.block_size
        least = least_product(
            self._threshold, self._step, self._row_error[block], self._column_error[other]
        )
        rows, columns = self._rows[block], self._columns[other].T
        if self._on_cpu:
            # Memory that is reused stays in the cache.
            if not hasattr(self._own, "scores"):
                shape = (rows.shape[0], columns.shape[1])
                self._own.scores = self._torch.empty(shape, dtype=self._torch.int32)
                self._own.reached = np.empty(shape, bool)
            scores = self._torch._int_mm(rows, columns, out=self._own.scores)
            i, j = _at_least(scores.numpy(), np.int32(least), self._own.reached)
        else:
            scores = self._torch._int_mm(rows, columns)
            i, j = (half.cpu().numpy() for half in (scores >= least).nonzero(as_tuple=True))
        # If the least product is negative, padding passes too and is removed here.
        real = (i < min(self.block_size, self._count - top)) & (
            j < min(self.block_size, self._other_count - left)
        )
        return i[real] + top, j[real] + left


def _at_least(
    scores: np.ndarray, least: np.number, reached: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each score that is at least ``least``.

    Few scores pass, so eight comparisons are read as one number; this is several times faster than
    `numpy.nonzero`. ``reached`` is memory for the comparisons.
    """
    passed = np.greater_equal(scores, least, out=reached).ravel()
    whole = len(passed) // 8 * 8
    eights = np.flatnonzero(passed[:whole].view(np.uint64) != 0)
    which, place = np.nonzero(passed[:whole].reshape(-1, 8)[eights])
    rest = np.flatnonzero(passed[whole:]) + whole
    return np.divmod(np.concatenate([eights[which] * 8 + place, rest]), scores.shape[1])


def _on_all_cores(
    task: Callable[[int], NeighbourPairs], items: range, workers: int
) -> Iterator[NeighbourPairs]:
    """Results of ``task`` in order; meanwhile torch uses one core in each thread."""
    if workers == 1:
        yield from map(task, items)
        return
    with one_core_a_thread() as setup:
        yield from in_order(task, items, workers, setup)

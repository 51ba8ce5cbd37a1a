"""Beam search and sampling with any model that predicts the next token, in numpy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

Step = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Takes the new token of each sequence, int64 (sequences,), and the row that each sequence had in
the previous step; returns the log probabilities of the next token, float32 (sequences,
vocabulary)."""


@dataclass(frozen=True, slots=True)
class FoundSequence:
    """A sequence that a search found.

    Attributes:
        tokens: without the stop token.
        score: mean log probability of its tokens, the stop token included.
    """

    tokens: tuple[int, ...]
    score: float


@dataclass(slots=True)
class _Hypotheses:
    """The best finished sequences of one row.

    Attributes:
        wanted: number of sequences to keep.
        found: the sequences, best first.
        complete: whether no running sequence can become better. The row then no longer changes, so
            that its result does not depend on the other rows of the batch.
    """

    wanted: int
    found: list[FoundSequence] = field(default_factory=list)
    complete: bool = False

    def add(self, tokens: list[int], total: float, length: int) -> None:
        self.found.append(FoundSequence(tuple(tokens), total / length))
        self.found.sort(key=lambda item: -item.score)
        del self.found[self.wanted :]

    def close(self, best_total: float, length: int) -> None:
        """Mark the row complete if its best running sequence is not better at this length."""
        if len(self.found) == self.wanted and self.found[-1].score >= best_total / length:
            self.complete = True


def beam_search(
    first: np.ndarray, step: Step, beams: int, most: int, stop: int
) -> list[list[FoundSequence]]:
    """Search for the sequences of highest mean log probability.

    The rule is that of transformers' `generate` with ``length_penalty=1`` and
    ``early_stopping=False``.

    Args:
        first: log probabilities of the first token, (rows, vocabulary).
        step: continues sequences: at first one for each row, then ``beams``, row by row.
        beams: number of sequences that are followed for each row.
        most: longest length of a sequence in tokens, the stop token included.
        stop: the stop token.

    Returns:
        For each row at most ``beams`` sequences, best first.
    """
    rows, vocabulary = first.shape
    done = [_Hypotheses(beams) for _ in range(rows)]
    totals = first[:, None]
    texts: list[list[list[int]]] = [[[]] for _ in range(rows)]
    for length in range(1, most + 1):
        followed = totals.shape[1]
        flat = totals.reshape(rows, -1)
        tokens = np.full((rows, beams), stop, dtype=np.int64)
        parents = np.zeros((rows, beams), dtype=np.int64)
        kept = np.full((rows, beams), -np.inf, dtype=np.float32)
        grown: list[list[list[int]]] = []
        for row in range(rows):
            if done[row].complete:
                grown.append([[]] * beams)
                continue
            best = _largest(flat[row], 2 * beams)
            running: list[list[int]] = []
            for rank, place in enumerate(best):
                beam, token = divmod(int(place), vocabulary)
                total = float(flat[row, place])
                if total == -np.inf or len(running) == beams:
                    break
                text = texts[row][beam]
                if token == stop:
                    if rank < beams:
                        done[row].add(text, total, length)
                    continue
                at = len(running)
                tokens[row, at], parents[row, at], kept[row, at] = token, beam, total
                running.append([*text, token])
            grown.append(running + [[]] * (beams - len(running)))
        texts = grown
        for hypotheses, total in zip(done, kept.max(axis=1), strict=True):
            hypotheses.close(float(total), length)
        if length == most or all(hypotheses.complete for hypotheses in done):
            break
        order = (parents + followed * np.arange(rows)[:, None]).ravel()
        following = step(tokens.ravel(), order).reshape(rows, beams, vocabulary)
        totals = kept[:, :, None] + following
    for row, hypotheses in enumerate(done):
        if hypotheses.complete:
            continue
        for text, total in zip(texts[row], kept[row].tolist(), strict=True):
            if total > -np.inf:
                hypotheses.add(text, total, length)
    return [hypotheses.found for hypotheses in done]


def sample(
    first: np.ndarray,
    step: Step,
    count: int,
    most: int,
    stop: int,
    top_p: float,
    random: np.random.Generator,
) -> list[list[FoundSequence]]:
    """Nucleus sampling (Holtzman et al. 2020): sample each token among the most probable ones.

    Args:
        first: see `beam_search`.
        step: see `beam_search`, with ``count`` sequences for each row.
        count: number of sequences for each row.
        most: longest length of a sequence in tokens, the stop token included.
        stop: the stop token.
        top_p: sample from the smallest set of tokens with this probability.
        random: the source of randomness.

    Returns:
        For each row ``count`` sequences, the most probable first.
    """
    rows = len(first)
    order = np.repeat(np.arange(rows), count)
    logs = first[order]
    texts: list[list[int]] = [[] for _ in order]
    totals = np.zeros(len(order))
    lengths = np.zeros(len(order), dtype=np.int64)
    running = np.ones(len(order), dtype=bool)
    for length in range(1, most + 1):
        tokens = np.array([_sample_token(line, top_p, random) for line in logs])
        totals += np.where(running, logs[np.arange(len(order)), tokens], 0)
        lengths += running
        running &= tokens != stop
        for row in np.flatnonzero(running):
            texts[row].append(int(tokens[row]))
        if length == most or not running.any():
            break
        logs = step(tokens, order if length == 1 else np.arange(len(order)))
    written = [
        FoundSequence(tuple(text), float(total / length))
        for text, total, length in zip(texts, totals, lengths, strict=True)
    ]
    return [
        sorted(written[row * count : (row + 1) * count], key=lambda item: -item.score)
        for row in range(rows)
    ]


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """Indices of the largest values, largest first; of equal values, the earlier one first."""
    count = min(count, len(values))
    least = np.partition(values, len(values) - count)[len(values) - count]
    places = np.flatnonzero(values >= least)
    chosen: np.ndarray = places[np.argsort(-values[places], kind="stable")[:count]]
    return chosen


def _sample_token(logs: np.ndarray, top_p: float, random: np.random.Generator) -> int:
    order = np.argsort(-logs, kind="stable")
    shares = np.exp(logs[order].astype(np.float64))
    before = np.cumsum(shares) - shares
    shares = np.where(before < top_p, shares, 0)
    return int(random.choice(order, p=shares / shares.sum()))

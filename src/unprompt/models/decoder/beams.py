"""Beam search and sampling over any model that foresees the next token, in numpy alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

Step = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Takes the next tokens, int64 (sequences,), and for each the sequence of the step before that it
goes on with; gives log probabilities of the tokens after them, float32 (sequences, vocabulary)."""


@dataclass(frozen=True, slots=True)
class Written:
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
        wanted: how many are kept.
        found: them, best first.
        complete: nothing that is running can be better any more. It stays so, whatever other rows
            go on with: a row's answer does not depend on its batch.
    """

    wanted: int
    found: list[Written] = field(default_factory=list)
    complete: bool = False

    def add(self, tokens: list[int], total: float, length: int) -> None:
        self.found.append(Written(tuple(tokens), total / length))
        self.found.sort(key=lambda item: -item.score)
        del self.found[self.wanted :]

    def close(self, best_total: float, length: int) -> None:
        """Complete it where the best that is running is no better, at the length it has."""
        if len(self.found) == self.wanted and self.found[-1].score >= best_total / length:
            self.complete = True


def beam_search(
    first: np.ndarray, step: Step, beams: int, most: int, stop: int
) -> list[list[Written]]:
    """Search the sequences of highest mean log probability.

    The rule of transformers' `generate` with ``length_penalty=1`` and ``early_stopping=False``.

    Args:
        first: log probabilities of the first token, (rows, vocabulary).
        step: goes on with sequences; at first each row is one, then ``beams``, row by row.
        beams: sequences that are followed for each row.
        most: tokens of a sequence, the stop token included.
        stop: the stop token.

    Returns:
        For each row ``beams`` sequences at most, best first.
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
) -> list[list[Written]]:
    """Draw sequences from the likeliest tokens (nucleus sampling, Holtzman et al. 2020).

    Args:
        first: as `beam_search`.
        step: likewise; sequences are ``count`` a row.
        count: sequences a row.
        most: tokens of a sequence, the stop token included.
        stop: the stop token.
        top_p: draw from the smallest set of tokens with this probability.
        random: the source of randomness.

    Returns:
        For each row ``count`` sequences, the likeliest first.
    """
    rows = len(first)
    order = np.repeat(np.arange(rows), count)
    logs = first[order]
    texts: list[list[int]] = [[] for _ in order]
    totals = np.zeros(len(order))
    lengths = np.zeros(len(order), dtype=np.int64)
    running = np.ones(len(order), dtype=bool)
    for length in range(1, most + 1):
        tokens = np.array([_draw(line, top_p, random) for line in logs])
        totals += np.where(running, logs[np.arange(len(order)), tokens], 0)
        lengths += running
        running &= tokens != stop
        for row in np.flatnonzero(running):
            texts[row].append(int(tokens[row]))
        if length == most or not running.any():
            break
        logs = step(tokens, order if length == 1 else np.arange(len(order)))
    written = [
        Written(tuple(text), float(total / length))
        for text, total, length in zip(texts, totals, lengths, strict=True)
    ]
    return [
        sorted(written[row * count : (row + 1) * count], key=lambda item: -item.score)
        for row in range(rows)
    ]


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """Places of the largest values, largest first; of equal ones the earlier first."""
    count = min(count, len(values))
    least = np.partition(values, len(values) - count)[len(values) - count]
    places = np.flatnonzero(values >= least)
    chosen: np.ndarray = places[np.argsort(-values[places], kind="stable")[:count]]
    return chosen


def _draw(logs: np.ndarray, top_p: float, random: np.random.Generator) -> int:
    order = np.argsort(-logs, kind="stable")
    shares = np.exp(logs[order].astype(np.float64))
    before = np.cumsum(shares) - shares
    shares = np.where(before < top_p, shares, 0)
    return int(random.choice(order, p=shares / shares.sum()))

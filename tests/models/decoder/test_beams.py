"""Searches against enumeration and against transformers' own rule."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unprompt.models.decoder.beams import beam_search, sample

STOP = 1


class Language:
    """A random language of a few tokens: what comes next depends on all that came before."""

    def __init__(self, rows: int, vocabulary: int, seed: int):
        self.rows, self.vocabulary, self.seed = rows, vocabulary, seed
        self.texts: list[tuple[int, ...]] = [(row,) for row in range(rows)]

    def after(self, text: tuple[int, ...]) -> np.ndarray:
        random = np.random.default_rng([self.seed, *text])
        logits = random.normal(scale=2, size=self.vocabulary)
        return (logits - np.log(np.exp(logits).sum())).astype(np.float32)

    def first(self) -> np.ndarray:
        return np.stack([self.after(text) for text in self.texts])

    def step(self, tokens: np.ndarray, order: np.ndarray) -> np.ndarray:
        self.texts = [(*self.texts[row], int(t)) for row, t in zip(order, tokens, strict=True)]
        return np.stack([self.after(text) for text in self.texts])

    def score(self, row: int, tokens: tuple[int, ...], most: int) -> float:
        written = tokens if len(tokens) == most else (*tokens, STOP)
        logs = [self.after((row, *written[:at]))[token] for at, token in enumerate(written)]
        return float(np.mean(logs))


@settings(max_examples=30)
@given(rows=st.integers(1, 3), most=st.integers(1, 4), seed=st.integers(0, 10_000))
def test_with_enough_beams_the_best_of_all_sequences_is_found(rows, most, seed):
    vocabulary = 3
    language = Language(rows, vocabulary, seed)
    found = beam_search(language.first(), language.step, 3**most, most, STOP)
    others = [token for token in range(vocabulary) if token != STOP]
    for row, sequences in enumerate(found):
        every = {
            text: language.score(row, text, most)
            for length in range(most + 1)
            for text in product(others, repeat=length)
        }
        best = max(every, key=lambda text: every[text])
        assert sequences[0].tokens == best
        assert sequences[0].score == pytest.approx(every[best], abs=1e-5)
        for item in sequences:
            assert item.score == pytest.approx(every[item.tokens], abs=1e-5)
        assert len({item.tokens for item in sequences}) == len(sequences)


@settings(max_examples=30)
@given(beams=st.integers(1, 4), most=st.integers(1, 6), seed=st.integers(0, 10_000))
def test_rows_do_not_know_each_other(beams, most, seed):
    together = Language(3, 5, seed)
    found = beam_search(together.first(), together.step, beams, most, STOP)
    for row in range(3):
        alone = Language(3, 5, seed)
        alone.texts = [(row,)]
        assert beam_search(alone.first(), alone.step, beams, most, STOP) == [found[row]]


def test_one_beam_is_greedy():
    language = Language(1, 6, 3)
    text: tuple[int, ...] = ()
    while len(text) < 8 and (token := int(language.after((0, *text)).argmax())) != STOP:
        text = (*text, token)
    assert beam_search(language.first(), language.step, 1, 8, STOP)[0][0].tokens == text


def test_samples_come_as_often_as_they_are_likely():
    language = Language(1, 3, 11)
    drawn = sample(language.first(), language.step, 4000, 2, STOP, 1.0, np.random.default_rng(0))[0]
    expected = np.exp(language.after((0,)))
    starts = [item.tokens[0] if item.tokens else STOP for item in drawn]
    shares = np.bincount(starts, minlength=3) / len(starts)
    np.testing.assert_allclose(shares, expected, atol=0.03)
    assert [item.score for item in drawn] == sorted((i.score for i in drawn), reverse=True)
    for item in drawn[:50]:
        assert item.score == pytest.approx(language.score(0, item.tokens, 2), abs=1e-5)


def test_a_small_nucleus_is_greedy():
    language = Language(2, 6, 5)
    drawn = sample(language.first(), language.step, 3, 6, STOP, 1e-6, np.random.default_rng(0))
    for row, sequences in enumerate(drawn):
        alone = Language(2, 6, 5)
        alone.texts = [(row,)]
        greedy = beam_search(alone.first(), alone.step, 1, 6, STOP)[0][0]
        assert [item.tokens for item in sequences] == [greedy.tokens] * 3

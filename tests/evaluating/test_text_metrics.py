from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from unprompt.encoding import encode
from unprompt.evaluating.evaluation import evaluate, with_words
from unprompt.evaluating.text_metrics import measure_words
from unprompt.predicting.captioner_model import Caption
from unprompt.predicting.predictor import Predictor

PROMPTS = [
    "a red fox in the snow, oil painting",
    "portrait of an old sailor, dramatic light",
    "a castle above the clouds at dawn",
    "three green apples on a wooden table",
]
ENCODER = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.fixture(scope="module")
def true() -> np.ndarray:
    return encode(PROMPTS, ENCODER, precision="fp32")


def test_the_true_prompts_are_worth_everything(true):
    words = measure_words(PROMPTS, PROMPTS, true, ENCODER, [0.9] * 4)
    assert words.cosine.mean == pytest.approx(1, abs=1e-5)
    assert (words.exact, words.bleu, words.chrf) == pytest.approx((1, 100, 100))
    assert words.reliability is not None
    assert words.reliability[0].estimated == pytest.approx(0.9)


def test_answers_of_other_prompts_are_worth_little(true):
    words = measure_words(PROMPTS[1:] + PROMPTS[:1], PROMPTS, true, ENCODER)
    assert words.cosine.mean < 0.4
    assert words.exact == 0
    assert words.bleu < 10
    assert words.reliability is None
    others = encode(PROMPTS[1:] + PROMPTS[:1], ENCODER, precision="fp32")
    np.testing.assert_allclose(words.values, (others * true).sum(axis=1), atol=1e-5)


def test_answers_that_repeat_each_other_are_not_distinct(true):
    same = measure_words(["a red fox"] * 4, PROMPTS, true, ENCODER)
    assert same.distinct == pytest.approx((3 / 12, 2 / 8, 1 / 4))


def test_an_embedder_answers_in_the_words_a_person_is_shown(model, model_folder, table):
    evaluation = evaluate(model, table, "test")
    predictor = Predictor(model_folder, "embed", device="cpu")
    words = with_words(evaluation, predictor).words
    shown = [
        predictor.predict(evaluation.pairs.root / file).prompt
        for file in evaluation.pairs.column("file")
    ]
    assert words.texts == shown
    assert words.to_dict()["pairs"] == len(shown)


def test_a_captioners_own_words_are_measured(model, model_folder, table):
    evaluation = evaluate(model, table.take([0, 1, 2]), None)
    written = [Caption(prompt, 0.5) for prompt in evaluation.pairs.prompts]
    captioned = replace(evaluation, captions=written)
    words = with_words(captioned, Predictor(model_folder, "embed", device="cpu")).words
    assert words.exact == 1
    assert words.reliability is None

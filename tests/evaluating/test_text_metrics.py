from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from unprompt.encoding import encode
from unprompt.evaluating.evaluation import evaluate, with_text_scores
from unprompt.evaluating.text_metrics import score_texts
from unprompt.predicting.captioner import Caption
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
    scores = score_texts(PROMPTS, PROMPTS, true, ENCODER, [0.9] * 4)
    assert scores.cosine.mean == pytest.approx(1, abs=1e-5)
    assert (scores.exact, scores.bleu, scores.chrf) == pytest.approx((1, 100, 100))
    assert scores.reliability is not None
    assert scores.reliability[0].estimated == pytest.approx(0.9)


def test_answers_of_other_prompts_are_worth_little(true):
    scores = score_texts(PROMPTS[1:] + PROMPTS[:1], PROMPTS, true, ENCODER)
    assert scores.cosine.mean < 0.4
    assert scores.exact == 0
    assert scores.bleu < 10
    assert scores.reliability is None
    others = encode(PROMPTS[1:] + PROMPTS[:1], ENCODER, precision="fp32")
    np.testing.assert_allclose(scores.values, (others * true).sum(axis=1), atol=1e-5)


def test_answers_that_repeat_each_other_are_not_distinct(true):
    same = score_texts(["a red fox"] * 4, PROMPTS, true, ENCODER)
    assert same.distinct == pytest.approx((3 / 12, 2 / 8, 1 / 4))


def test_an_embedder_answers_in_the_words_a_person_is_shown(model, model_folder, table):
    evaluation = evaluate(model, table, "test")
    predictor = Predictor(model_folder, route="embed", device="cpu")
    scores = with_text_scores(evaluation, predictor).text_scores
    shown = [
        predictor.predict(evaluation.pairs.root / file).prompt
        for file in evaluation.pairs.column("file")
    ]
    assert scores.texts == shown
    assert scores.to_dict()["pairs"] == len(shown)


def test_a_captioners_own_words_are_measured(model, model_folder, table):
    evaluation = evaluate(model, table.take([0, 1, 2]), None)
    written = [Caption(prompt, 0.5) for prompt in evaluation.pairs.prompts]
    captioned = replace(evaluation, captions=written)
    predictor = Predictor(model_folder, route="embed", device="cpu")
    scores = with_text_scores(captioned, predictor).text_scores
    assert scores.exact == 1
    assert scores.reliability is None

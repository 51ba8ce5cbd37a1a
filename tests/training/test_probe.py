from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unprompt.errors import RecipeError
from unprompt.evaluating.evaluation import evaluate
from unprompt.predicting.model import TorchModel
from unprompt.training.probe import STRENGTHS, fit_head, learn_head, ridges
from unprompt.training.run import build


def brute_force(features: np.ndarray, target: np.ndarray, strength: float) -> tuple:
    """The minimiser of |Z w + b - y|² + p |w|², found as one least-squares problem."""
    mean, deviation = features.mean(axis=0), features.std(axis=0) + 1e-6
    z = (features - mean) / deviation
    count, width = z.shape
    penalty = strength * (z**2).sum() / width
    design = np.vstack(
        [
            np.hstack([z, np.ones((count, 1))]),
            np.hstack([np.sqrt(penalty) * np.eye(width), np.zeros((width, 1))]),
        ]
    )
    wanted = np.vstack([target, np.zeros((width, target.shape[1]))])
    solution = np.linalg.lstsq(design, wanted, rcond=None)[0]
    weight = solution[:-1].T / deviation
    return weight, solution[-1] - weight @ mean


@settings(deadline=None, max_examples=40)
@given(
    count=st.integers(4, 40),
    width=st.integers(1, 12),
    seed=st.integers(0, 1000),
    strength=st.sampled_from(STRENGTHS),
    scale=st.sampled_from([0.01, 1.0, 100.0]),
)
def test_ridge_is_the_least_squares_solution(count, width, seed, strength, scale):
    random = np.random.default_rng(seed)
    features = scale * (random.normal(size=(count, width)) + random.normal(size=width))
    target = random.normal(size=(count, 3))
    [(weight, bias)] = ridges(features, target, [strength])
    expected_weight, expected_bias = brute_force(features, target, strength)
    np.testing.assert_allclose(weight * scale, expected_weight * scale, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(bias, expected_bias, rtol=1e-6, atol=1e-8)


def test_a_feature_that_never_changes_is_left_out():
    random = np.random.default_rng(0)
    features = np.hstack([random.normal(size=(20, 3)), np.zeros((20, 1))])
    [(weight, bias)] = ridges(features, random.normal(size=(20, 2)), [0.1])
    assert np.isfinite(weight).all()
    assert np.isfinite(bias).all()
    assert (weight[:, 3] == 0).all()


def test_the_probe_sets_the_head_and_scores_better_than_the_random_one(recipe, pairs):
    torch.manual_seed(0)
    model = build(recipe, pairs.embeddings.shape[1])
    val = pairs.of_split("val")
    before = evaluate(TorchModel(model.eval(), "random", None), val, None).model.overall.mean
    body = [p.clone() for p in model.backbone.state_dict().values()]
    model.train()
    strength, cosine = fit_head(model, pairs.of_split("train"), val)
    assert model.training
    assert strength in STRENGTHS
    after = evaluate(TorchModel(model.eval(), "probed", None), val, None).model.overall.mean
    assert after == pytest.approx(cosine, abs=1e-5)
    assert after > before + 0.1
    now = model.backbone.state_dict().values()
    assert all(torch.equal(a, b) for a, b in zip(body, now, strict=True))


def test_a_wide_head_cannot_be_probed(recipe, pairs):
    recipe.model.head.kind = "mlp"
    recipe.model.head.hidden = 8
    model = build(recipe, pairs.embeddings.shape[1])
    with pytest.raises(RecipeError, match=r"set model\.head\.kind=linear"):
        fit_head(model, pairs, pairs)


def test_a_wide_head_learns_from_the_features_of_the_frozen_backbone(recipe, pairs):
    recipe.model.head.kind, recipe.model.head.hidden = "mlp", 32
    torch.manual_seed(0)
    model = build(recipe, pairs.embeddings.shape[1]).train()
    body = [p.clone() for p in model.backbone.state_dict().values()]
    train, val = pairs.of_split("train"), pairs.of_split("val")
    before = evaluate(TorchModel(model.eval(), "random", None), val, None).model.overall.mean
    model.train()
    cosine = learn_head(model, train, val, epochs=30, batch_size=16)
    assert model.training
    after = evaluate(TorchModel(model.eval(), "learned", None), val, None).model.overall.mean
    assert after == pytest.approx(cosine, abs=1e-5)
    assert after > before + 0.1
    now = model.backbone.state_dict().values()
    assert all(torch.equal(a, b) for a, b in zip(body, now, strict=True))

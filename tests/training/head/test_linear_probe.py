from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unprompt.encoding import encode
from unprompt.errors import RecipeError
from unprompt.evaluating.evaluation import evaluate
from unprompt.pairs.table import load, save
from unprompt.predicting.embedding_model import TorchModel
from unprompt.training.head.linear_probe import STRENGTHS, fit_by_gradient, fit_linear_probe, ridges
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


@settings(max_examples=40)
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
    strength, cosine = fit_linear_probe(model, pairs.of_split("train"), val)
    assert model.training
    assert strength in STRENGTHS
    after = evaluate(TorchModel(model.eval(), "probed", None), val, None).model.overall.mean
    assert after == pytest.approx(cosine, abs=1e-5)
    assert after > before + 0.1
    now = model.backbone.state_dict().values()
    assert all(torch.equal(a, b) for a, b in zip(body, now, strict=True))


def test_a_head_of_classes_is_taught_by_the_recipe_and_fitted_by_the_probe(
    recipe, sketches, pairs, tmp_path
):
    real = load(sketches).with_columns(
        {name: pairs.column(name) for name in ("split", "source", "group")}
    )
    embeddings = encode(real.prompts, recipe.model.encoder)
    save(real.with_columns({"embedding": embeddings}), tmp_path / "real.parquet")
    real = load(tmp_path / "real.parquet")
    (tmp_path / "usual.txt").write_text("a red circle\n")
    recipe.model.head.type = "classes"
    recipe.model.head.prior = str(tmp_path / "usual.txt")
    model = build(recipe, dim=384)
    said = encode(["a red circle"], recipe.model.encoder)[0]
    np.testing.assert_allclose(model.head.linear.bias.detach().numpy(), said, atol=1e-6)
    val = real.of_split("val")
    before = evaluate(TorchModel(model.eval(), "taught", None), val, None).model.overall.mean
    _, cosine = fit_linear_probe(model, real.of_split("train"), val)
    after = evaluate(TorchModel(model, "fitted", None), val, None).model.overall.mean
    assert after == pytest.approx(cosine, abs=1e-5)
    assert after > before + 0.1


def test_a_wide_head_cannot_be_probed(recipe, pairs):
    recipe.model.head.type = "mlp"
    recipe.model.head.hidden = 8
    model = build(recipe, pairs.embeddings.shape[1])
    with pytest.raises(RecipeError, match=r"set model\.head\.type=linear"):
        fit_linear_probe(model, pairs, pairs)


def test_a_wide_head_learns_from_the_features_of_the_frozen_backbone(recipe, pairs):
    recipe.model.head.type, recipe.model.head.hidden = "mlp", 32
    torch.manual_seed(0)
    model = build(recipe, pairs.embeddings.shape[1]).train()
    body = [p.clone() for p in model.backbone.state_dict().values()]
    train, val = pairs.of_split("train"), pairs.of_split("val")
    before = evaluate(TorchModel(model.eval(), "random", None), val, None).model.overall.mean
    model.train()
    cosine = fit_by_gradient(model, train, val, epochs=30, batch_size=16)
    assert model.training
    after = evaluate(TorchModel(model.eval(), "learned", None), val, None).model.overall.mean
    assert after == pytest.approx(cosine, abs=1e-5)
    assert after > before + 0.1
    now = model.backbone.state_dict().values()
    assert all(torch.equal(a, b) for a, b in zip(body, now, strict=True))

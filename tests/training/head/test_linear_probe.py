from __future__ import annotations

import numpy as np
import pytest
import torch

from unprompt.encoding import encode
from unprompt.errors import RecipeError
from unprompt.evaluating.evaluation import evaluate
from unprompt.pairs.table import load, save
from unprompt.predicting.embedding_model import TorchModel
from unprompt.training.head.linear_probe import fit_linear_probe
from unprompt.training.head.ridge import PENALTIES
from unprompt.training.train_embedder import build


def test_the_probe_sets_the_head_and_scores_better_than_the_random_one(recipe, pairs):
    torch.manual_seed(0)
    model = build(recipe, pairs.embeddings.shape[1])
    val = pairs.of_split("val")
    before = evaluate(TorchModel(model.eval(), "random", None), val, None).model.overall.mean
    body = [p.clone() for p in model.backbone.state_dict().values()]
    model.train()
    penalty, cosine = fit_linear_probe(model, pairs.of_split("train"), val)
    assert model.training
    assert penalty in PENALTIES
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

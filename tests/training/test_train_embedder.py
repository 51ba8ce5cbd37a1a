from __future__ import annotations

import json

import torch

from unprompt.models.heads import HeadConfig
from unprompt.training.recipe import Recipe
from unprompt.training.run import train
from unprompt.training.train_embedder import build


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-5)


def test_a_run_goes_on_from_another_model(recipe, tmp_path):
    torch.manual_seed(1)
    before = build(recipe, 12)
    before.save_pretrained(tmp_path / "before")
    recipe.model.start = str(tmp_path / "before")
    recipe.model.backbone = "timm/not_looked_at"
    after = build(recipe, 12)
    assert_same(before.state_dict(), after.state_dict())
    wider = build(recipe, 13)
    assert_same(before.backbone.state_dict(), wider.backbone.state_dict())
    assert wider.head[-1].out_features == 13
    recipe.model.size = 48
    assert build(recipe, 12).preprocessing.size == 48


def test_the_models_own_mean_and_std(recipe: Recipe):
    recipe.model.mean, recipe.model.std = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    model = build(recipe, 12)
    assert model.preprocessing.mean == (0.1, 0.2, 0.3)
    assert model.preprocessing.std == (0.4, 0.5, 0.6)


def test_a_start_keeps_its_head_where_the_recipe_names_none(recipe, pairs, tmp_path):
    recipe.model.head.type, recipe.model.head.hidden = "mlp", 8
    before = build(recipe, 12)
    before.save_pretrained(tmp_path / "start")
    recipe.model.head = type(recipe.model.head)()
    recipe.model.start = str(tmp_path / "start")
    model = build(recipe, 12)
    assert model.architecture.head == HeadConfig("mlp", 8)
    for name, value in before.head.state_dict().items():
        assert torch.equal(model.head.state_dict()[name], value)
    recipe.model.head.type, recipe.model.head.dropout = "linear", 0.5
    assert build(recipe, 12).architecture.head == HeadConfig("linear", dropout=0.5)


def test_a_wide_head_is_trained_first(recipe):
    recipe.model.head.type, recipe.model.head.hidden = "mlp", 32
    recipe.schedule.head_epochs, recipe.schedule.max_steps = 40, 1
    recipe.schedule.evaluations = 1
    recipe.optimiser.learning_rate = 0.0
    finished = train(recipe)
    logged = [json.loads(line) for line in (finished.folder / "metrics.jsonl").open()]
    # A head that has learned nothing scores about 0; features of a random tower tell little more.
    assert logged[0]["head_cosine"] > 0.2

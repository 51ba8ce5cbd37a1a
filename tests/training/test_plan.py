from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from unprompt.errors import RecipeError
from unprompt.pairs.table import save
from unprompt.training.data.dataset import PairsDataset
from unprompt.training.embedder_trainer import EmbedderTrainer
from unprompt.training.plan import plan
from unprompt.training.recipe import Recipe, load_recipe
from unprompt.training.train_embedder import build, prepare_backbone

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


def test_the_plan_is_what_the_trainer_does(recipe: Recipe, pairs):
    recipe.model.backbone, recipe.model.freeze = "timm/test_vit", 1
    recipe.optimiser.layer_decay, recipe.optimiser.ema = 0.5, 0.9
    recipe.schedule.max_steps, recipe.schedule.epochs = -1, 2.5
    recipe.schedule.accumulation = 2
    found = plan(recipe)
    assert not Path(recipe.output).exists()
    model = build(recipe, pairs.embeddings.shape[1])
    prepare_backbone(model, recipe)
    train = PairsDataset(pairs.of_split("train"), model.preprocessing)
    trainer = EmbedderTrainer(recipe, model, train, train)
    assert (found.steps, found.pairs) == (trainer.args.max_steps, 40)
    assert found.warmup == trainer.args.warmup_steps
    groups = trainer.create_optimizer().param_groups
    assert found.groups == [
        (g["name"], sum(p.numel() for p in g["params"]), g["lr"], g["weight_decay"]) for g in groups
    ]
    total = sum(p.numel() for p in model.parameters())
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert found.frozen == total - learning > 0
    assert found.memory["weights"] == found.memory["average"] == 4 * total
    assert found.memory["optimiser"] == 8 * learning
    assert "by the processes" not in str(found)
    recipe.schedule.fsdp = True
    assert "divides all but activations by the processes" in str(plan(recipe))


def test_activations_are_what_autograd_keeps(recipe: Recipe, pairs):
    """Twice the batch, twice the activations; checkpoints and frozen blocks keep less."""
    recipe.model.backbone = "timm/test_vit"
    plain = plan(recipe).memory["activations"]
    kept = 0
    model = build(recipe, pairs.embeddings.shape[1]).train()
    own = {p.data_ptr() for p in model.parameters()}
    seen: set[int] = set()

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        storage = tensor.untyped_storage()
        if tensor.data_ptr() not in own and storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            kept += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(torch.zeros(8, 3, 32, 32, dtype=torch.uint8), normalise=False)
    # The kernel of the CPU keeps a few sums besides.
    assert plain == pytest.approx(kept, rel=0.15)
    double = replace(recipe, schedule=replace(recipe.schedule, batch_size=16))
    assert plan(double).memory["activations"] == pytest.approx(2 * plain, rel=0.1)
    thrifty = replace(recipe, schedule=replace(recipe.schedule, gradient_checkpointing=True))
    assert plan(thrifty).memory["activations"] < 0.6 * plain
    frozen = replace(recipe, model=replace(recipe.model, freeze=5))
    assert plan(frozen).memory["activations"] < 0.5 * plain


def test_what_is_wrong_with_the_table_is_told(recipe, pairs, tmp_path):
    assert plan(recipe).problems == []
    splits = ["training", *pairs.column("split")[1:]]
    save(pairs.with_columns({"split": splits}), tmp_path / "wrong.parquet")
    recipe.data.table = str(tmp_path / "wrong.parquet")
    text = str(plan(recipe))
    assert "wrong.parquet: 1 problem\n  row 1: split 'training' is not one of train, val" in text


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_of_the_project_has_a_plan(path, shared, monkeypatch):
    monkeypatch.chdir(path.parents[1])
    recipe = load_recipe(path)
    if recipe.captioner is not None or recipe.decoder is not None:
        with pytest.raises(RecipeError, match="plans embedders only"):
            plan(recipe)
        return
    found = plan(recipe)
    text = str(found)
    assert "parameter groups" in text
    assert "total" in text
    assert sum(count for _, count, _, _ in found.groups) > 1e6
    rates = [rate for name, _, rate, _ in found.groups if name != "head"]
    if recipe.optimiser.layer_decay < 1:
        assert min(rates) == pytest.approx(1e-6, rel=0.2)
    if not Path(recipe.data.table).exists():
        assert f"unknown: {recipe.data.table} is not there" in text


def test_the_command_prints_it_and_does_nothing(recipe, tmp_path, monkeypatch, capsys):
    import sys

    from unprompt.cli import main
    from unprompt.training.recipe import save_recipe

    save_recipe(recipe, tmp_path / "recipe.yaml")
    command = ["unprompt", "train", str(tmp_path / "recipe.yaml"), "--dry-run", "--fold", "2"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    out, _ = capsys.readouterr()
    assert "fold: 2" in out
    assert f"{recipe.output}/fold-2" in out
    assert "6 of 8 pairs, 5 an epoch of the 40 pairs to train on; 1 of warm-up" in out
    assert list(tmp_path.iterdir()) == [tmp_path / "recipe.yaml"]

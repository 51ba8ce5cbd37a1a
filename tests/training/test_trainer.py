from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import TrainerState

from unprompt.errors import RecipeError
from unprompt.models.preprocessing import Preprocessing
from unprompt.training.dataset import PairsDataset
from unprompt.training.recipe import Recipe
from unprompt.training.run import build
from unprompt.training.trainer import EmbedderTrainer, RunLog, last_checkpoint, parameter_groups


def make(recipe: Recipe, pairs, rows: int = 16) -> EmbedderTrainer:
    torch.manual_seed(recipe.seed)
    model = build(recipe, pairs.embeddings.shape[1])
    few = PairsDataset(pairs.take(range(rows)), model.preprocessing)
    return EmbedderTrainer(recipe, model, few, few)


def batch_of(pairs, rows: int, size: int = 32) -> dict[str, torch.Tensor]:
    dataset = PairsDataset(pairs, Preprocessing(size))
    items = [dataset[row] for row in range(rows)]
    return {key: torch.stack([item[key] for item in items]) for key in ("pixels", "labels")}


def test_the_loss_is_one_minus_the_mean_cosine(recipe, pairs):
    trainer = make(recipe, pairs)
    model = trainer.model.eval()
    batch = batch_of(pairs, 6)
    loss, outputs = trainer.compute_loss(model, batch, return_outputs=True)
    with torch.no_grad():
        predicted = model(batch["pixels"]).numpy()
    true = batch["labels"].numpy()
    cosines = [
        p @ t / np.linalg.norm(p) / np.linalg.norm(t) for p, t in zip(predicted, true, strict=True)
    ]
    assert loss.item() == pytest.approx(1 - np.mean(cosines), abs=1e-6)
    assert outputs["embeddings"].shape == true.shape
    assert trainer.compute_loss(model, batch).item() == pytest.approx(loss.item(), abs=1e-6)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
@pytest.mark.parametrize("backbone", ["timm/test_resnet", "timm/test_vit"])
def test_every_parameter_is_in_one_group(recipe, pairs, backbone, kind):
    recipe.model.backbone, recipe.model.head.kind, recipe.model.head.hidden = backbone, kind, 8
    model = build(recipe, 12)
    groups = parameter_groups(model, recipe)
    counted = [id(p) for group in groups for p in group["params"]]
    assert sorted(counted) == sorted(id(p) for p in model.parameters())
    head = {id(p) for p in model.head.parameters()}
    for group in groups:
        decays = {p.ndim > 1 for p in group["params"]}
        assert len(decays) == 1
        assert group["weight_decay"] == (0.05 if decays.pop() else 0.0)
        of_head = {id(p) in head for p in group["params"]}
        assert of_head == {group["name"] == "head"}
        assert group["lr"] == (1e-2 if group["name"] == "head" else 1e-3)


def test_frozen_parameters_are_in_no_group(recipe):
    model = build(recipe, 12)
    model.backbone.requires_grad_(False)
    assert {group["name"] for group in parameter_groups(model, recipe)} == {"head"}


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_statistics_keep_those_of_the_backbone(recipe, pairs, frozen):
    recipe.optimiser.frozen_statistics = frozen
    recipe.schedule.max_steps, recipe.schedule.evaluations = 2, 1
    trainer = make(recipe, pairs)
    before = {
        name: value.clone()
        for name, value in trainer.model.backbone.state_dict().items()
        if "running" in name
    }
    weight = next(trainer.model.backbone.parameters()).detach().clone()
    trainer.train()
    now = trainer.model.backbone.state_dict()
    assert before
    assert all(torch.equal(now[name], before[name]) for name in before) == frozen
    assert not torch.equal(next(trainer.model.backbone.parameters()), weight)


def test_a_few_steps_learn_sixteen_pairs_by_heart(recipe, pairs):
    recipe.schedule.max_steps, recipe.schedule.batch_size = 40, 16
    recipe.schedule.evaluations = 1
    trainer = make(recipe, pairs)
    before = trainer.evaluate()["eval_cosine"]
    trainer.train()
    after = trainer.evaluate()["eval_cosine"]
    assert after > before + 0.3
    assert after > 0.8


def test_accumulated_steps_are_one_large_step(recipe, pairs):
    """Batch norm would see other batches, so a transformer."""
    recipe.model.backbone = "timm/test_vit"
    recipe.schedule.max_steps, recipe.schedule.evaluations = 1, 1
    recipe.optimiser.warmup = 0

    def gradient(batch_size: int, accumulation: int) -> torch.Tensor:
        recipe.schedule.batch_size, recipe.schedule.accumulation = batch_size, accumulation
        trainer = make(recipe, pairs)
        before = trainer.model.head[-1].weight.detach().clone()
        trainer.train()
        return trainer.model.head[-1].weight.detach() - before

    large, small = gradient(16, 1), gradient(4, 4)
    assert large.abs().max() > 1e-3
    torch.testing.assert_close(small, large, rtol=0.05, atol=1e-4)


def test_steps_and_evaluations_are_as_the_recipe_says(recipe, pairs):
    recipe.schedule.max_steps = -1
    recipe.schedule.epochs, recipe.schedule.evaluations = 3.5, 2
    trainer = make(recipe, pairs, rows=20)
    assert trainer.args.max_steps == 11  # 20 pairs are 3 steps of 8; 3.5 times 3, rounded up
    assert trainer.args.eval_steps == trainer.args.save_steps == 6
    assert trainer.args.warmup_steps == 1
    recipe.schedule.precision = "bf16"
    assert make(recipe, pairs).args.bf16
    recipe.schedule.precision = "auto"
    assert not make(recipe, pairs).args.fp16


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_half_precision_needs_cuda(recipe, pairs):
    recipe.schedule.precision = "fp16"
    with pytest.raises(RecipeError, match=r"schedule\.precision=fp16 needs a CUDA device"):
        make(recipe, pairs)


def test_the_last_whole_checkpoint_is_found_and_halves_are_removed(tmp_path):
    assert last_checkpoint(tmp_path / "nowhere") is None
    for step in (5, 20, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "checkpoint-5" / "trainer_state.json").write_text("{}")
    (tmp_path / "checkpoint-20" / "trainer_state.json").write_text("{}")
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-20"
    assert not (tmp_path / "checkpoint-100").exists()
    (tmp_path / "checkpoint-20" / "trainer_state.json").write_text('{"epoch": 1.')
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-5"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-5"]


def test_the_log_forgets_what_came_after_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = RunLog(path)
    log.on_train_begin(None, TrainerState(), None)
    assert not path.exists()
    for step in (0, 3, 6, 9):
        log.on_log(None, TrainerState(global_step=step), None, {"loss": 1.0})
    with path.open("a") as file:
        file.write('{"step": 1')
    log.on_train_begin(None, TrainerState(global_step=6), None)
    steps = [json.loads(line)["step"] for line in path.read_text().splitlines()]
    assert steps == [0, 3, 6]

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import TrainerCallback, TrainerState

from unprompt.errors import RecipeError, TrainingError
from unprompt.models.embedder import Embedder
from unprompt.models.preprocessing import Preprocessing
from unprompt.training.callbacks import RunLog
from unprompt.training.data.dataset import PairsDataset
from unprompt.training.embedder_trainer import EmbedderTrainer
from unprompt.training.parameter_groups import parameter_groups
from unprompt.training.recipe import Recipe
from unprompt.training.train_embedder import build, prepare_backbone
from unprompt.training.trainer import last_checkpoint


def make(recipe: Recipe, pairs, rows: int = 16) -> EmbedderTrainer:
    torch.manual_seed(recipe.seed)
    model = build(recipe, pairs.embeddings.shape[1])
    prepare_backbone(model, recipe)
    few = PairsDataset(pairs.take(range(rows)), model.preprocessing)
    return EmbedderTrainer(recipe, model, few, few)


def batch_of(pairs, rows: int, size: int = 32) -> dict[str, torch.Tensor]:
    dataset = PairsDataset(pairs, Preprocessing(size))
    items = [dataset[row] for row in range(rows)]
    return torch.utils.data.default_collate(items)


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
    assert outputs.shape == true.shape
    assert trainer.compute_loss(model, batch).item() == pytest.approx(loss.item(), abs=1e-6)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
@pytest.mark.parametrize("backbone", ["timm/test_resnet", "timm/test_vit"])
def test_every_parameter_is_in_one_group(recipe, pairs, backbone, kind):
    recipe.model.backbone, recipe.model.head.type, recipe.model.head.hidden = backbone, kind, 8
    model = build(recipe, 12)
    groups = parameter_groups(model, recipe.optimiser)
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
    assert {group["name"] for group in parameter_groups(model, recipe.optimiser)} == {"head"}


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


def test_one_process_cannot_spread_a_model(recipe, pairs):
    recipe.schedule.fsdp = True
    with pytest.raises(RecipeError, match="torchrun --nproc-per-node N"):
        make(recipe, pairs)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_half_precision_needs_cuda(recipe, pairs):
    recipe.schedule.precision = "fp16"
    with pytest.raises(RecipeError, match=r"schedule\.precision=fp16 needs a CUDA device"):
        make(recipe, pairs)


def test_the_last_whole_checkpoint_is_found_and_halves_are_removed(tmp_path):
    assert last_checkpoint(tmp_path) is None
    folder = tmp_path / "checkpoints"
    for step in (5, 20, 100):
        (folder / f"checkpoint-{step}").mkdir(parents=True)
        (folder / f"checkpoint-{step}" / "model.safetensors").write_bytes(b"weights")
    (folder / "checkpoint-5" / "trainer_state.json").write_text("{}")
    (folder / "checkpoint-20" / "trainer_state.json").write_text("{}")
    assert last_checkpoint(tmp_path) == folder / "checkpoint-20"
    assert not (folder / "checkpoint-100").exists()
    (folder / "checkpoint-20" / "trainer_state.json").write_text('{"epoch": 1.')
    assert last_checkpoint(tmp_path) == folder / "checkpoint-5"
    assert [path.name for path in folder.iterdir()] == ["checkpoint-5"]


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


def test_the_average_follows_with_warm_up_and_is_what_is_evaluated_and_saved(recipe, pairs):
    """Reckoned again step by step, as timm and the recipe's page state it."""
    recipe.optimiser.ema = 0.6
    recipe.schedule.max_steps = 4
    trainer = make(recipe, pairs)
    seen = [weights_now(trainer.model)]
    trainer.add_callback(After(lambda: seen.append(weights_now(trainer.model))))
    trainer.train()
    average = seen[0]
    for step, weights in enumerate(seen[1:], start=1):
        decay = 0.0 if step == 1 else min(0.6, 1 - step ** (-2 / 3))
        average = {name: decay * average[name] + (1 - decay) * weights[name] for name in average}
    found = weights_now(trainer.evaluated)
    for name, value in average.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
    assert any(not torch.allclose(found[n], v, atol=1e-4) for n, v in seen[-1].items())
    folder = Path(recipe.output) / "checkpoints" / "checkpoint-4"
    saved = Embedder.from_pretrained(folder)
    for name, value in weights_now(saved).items():
        torch.testing.assert_close(value, found[name], rtol=0, atol=0)
    dataset = trainer.eval_dataset
    batch = torch.utils.data.default_collate([dataset[row] for row in range(len(dataset))])
    with torch.no_grad():
        cosine = (saved(batch["pixels"]) * batch["labels"]).sum(dim=1).mean().item()
    assert trainer.evaluate()["eval_cosine"] == pytest.approx(cosine, abs=1e-5)


def weights_now(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


class After(TrainerCallback):
    def __init__(self, run):
        self._run = run

    def on_step_end(self, args, state, control, **kwargs):
        self._run()


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_lora_is_merged_into_what_is_saved(recipe, pairs, ema):
    recipe.model.backbone, recipe.model.lora_rank, recipe.optimiser.ema = "timm/test_vit", 2, ema
    recipe.schedule.max_steps, recipe.schedule.evaluations = 3, 1
    recipe.optimiser.learning_rate = 1e-2
    trainer = make(recipe, pairs)
    frozen = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if "base" in n}
    trainer.train()
    now = dict(trainer.model.named_parameters())
    assert frozen
    assert all(torch.equal(now[name], value) for name, value in frozen.items())
    saved = Embedder.from_pretrained(Path(recipe.output) / "checkpoints" / "checkpoint-3")
    assert not any("lora" in name for name in saved.state_dict())
    batch = batch_of(pairs, 6)
    with torch.no_grad():
        expected = trainer.evaluated.eval()(batch["pixels"])
        torch.testing.assert_close(saved(batch["pixels"]), expected, rtol=1e-3, atol=1e-4)


def test_frozen_blocks_keep_weights_and_statistics_in_training(recipe, pairs):
    recipe.model.freeze = 2
    recipe.schedule.max_steps, recipe.schedule.evaluations = 2, 1
    trainer = make(recipe, pairs)
    before = {n: v.clone() for n, v in trainer.model.backbone.network.state_dict().items()}
    trainer.train()
    for name, value in trainer.model.backbone.network.state_dict().items():
        low = name.startswith(("conv1", "bn1", "layer1", "layer2"))
        if low or "num_batches" not in name:
            assert torch.equal(value, before[name]) == low, name


def test_the_rate_falls_to_the_share_that_is_asked(recipe, pairs):
    recipe.optimiser.final, recipe.optimiser.warmup = 0.01, 0.25
    recipe.schedule.max_steps, recipe.schedule.evaluations = 8, 1
    trainer = make(recipe, pairs)
    rates = []
    trainer.add_callback(
        After(lambda: rates.append([g["lr"] for g in trainer.optimizer.param_groups]))
    )
    trainer.train()
    backbone, head = (np.array([rate[column] for rate in rates]) for column in (0, -1))
    np.testing.assert_allclose(head, 10 * backbone, rtol=1e-6)
    # After each step the next one's rate stands; the peak follows two steps of warm-up.
    assert backbone.argmax() == 1
    assert backbone.max() == pytest.approx(1e-3)
    assert backbone[-1] == pytest.approx(1e-5, rel=0.01)
    expected = 1e-3 * (0.01 + 0.99 * (1 + np.cos(np.pi * np.arange(7) / 6)) / 2)
    np.testing.assert_allclose(backbone[1:], expected, rtol=1e-5)


def test_a_run_that_gains_no_more_stops_early_and_stays_ended(recipe, pairs):
    recipe.optimiser.learning_rate = recipe.optimiser.head_learning_rate = 0.0
    recipe.optimiser.frozen_statistics = True
    recipe.schedule.max_steps, recipe.schedule.evaluate_every = 20, 2
    recipe.schedule.patience, recipe.schedule.save_every = 2, 3
    trainer = make(recipe, pairs)
    trainer.train()
    assert trainer.state.global_step == 6
    assert trainer.has_ended(trainer.state)
    assert trainer.best_checkpoint().name == "checkpoint-2"
    assert trainer.best_checkpoint().is_dir()


def test_looks_and_checkpoints_come_when_asked(recipe, pairs):
    recipe.schedule.max_steps, recipe.schedule.evaluate_every = 7, 3
    recipe.schedule.save_every, recipe.schedule.keep = 2, 9
    trainer = make(recipe, pairs)
    trainer.train()
    folder = Path(recipe.output)
    steps = sorted(int(p.name.split("-")[1]) for p in (folder / "checkpoints").iterdir())
    assert steps == [2, 3, 4, 6, 7]
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    looks = [entry for entry in logged if "eval_cosine" in entry]
    assert [entry["step"] for entry in looks] == [3, 6, 7]
    by_source = [looks[0]["eval_cosine/one"], looks[0]["eval_cosine/two"]]
    assert np.mean(by_source) == pytest.approx(looks[0]["eval_cosine"], abs=1e-6)


def test_a_loss_that_is_no_number_stops_with_the_pairs_of_the_batch(recipe, pairs):
    recipe.schedule.max_steps, recipe.schedule.save_every = 6, 2
    trainer = make(recipe, pairs)

    def poison() -> None:
        if trainer.state.global_step == 3:
            with torch.no_grad():
                trainer.model.head[-1].bias[0] = float("nan")

    trainer.add_callback(After(poison))
    with pytest.raises(TrainingError, match="the loss is nan at step 4, over the pairs") as caught:
        trainer.train()
    ids = set(pairs.take(range(16)).column("id"))
    named = str(caught.value).split("over the pairs ")[1].split(";")[0].split(", ")
    assert len(named) == 8
    assert set(named) <= ids
    saved = Embedder.from_pretrained(last_checkpoint(Path(recipe.output)))
    assert all(torch.isfinite(value).all() for value in saved.state_dict().values())


def test_gradient_checkpointing_learns_the_same(recipe, pairs):
    recipe.model.backbone = "timm/test_vit"
    recipe.schedule.max_steps, recipe.schedule.evaluations = 2, 1

    def trained(thrifty: bool) -> dict[str, torch.Tensor]:
        recipe.schedule.gradient_checkpointing = thrifty
        trainer = make(recipe, pairs)
        trainer.train()
        return weights_now(trainer.model)

    plain, thrifty = trained(False), trained(True)
    for name, value in plain.items():
        torch.testing.assert_close(thrifty[name], value, rtol=1e-3, atol=1e-5)

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.conftest import After, trainer_of
from unprompt.errors import TrainingError
from unprompt.models.embedder import Embedder
from unprompt.models.preprocessing import Preprocessing
from unprompt.training.data.dataset import PairsDataset
from unprompt.training.parameter_groups import parameter_groups
from unprompt.training.train_embedder import build
from unprompt.training.trainer import last_checkpoint


def batch_of(pairs, rows: int, size: int = 32) -> dict[str, torch.Tensor]:
    dataset = PairsDataset(pairs, Preprocessing(size))
    items = [dataset[row] for row in range(rows)]
    return torch.utils.data.default_collate(items)


def test_the_loss_is_one_minus_the_mean_cosine(recipe, pairs):
    trainer = trainer_of(recipe, pairs)
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


def test_images_that_cannot_be_read_are_left_out_of_the_training_loss(recipe, pairs):
    recipe.model.backbone = "timm/test_vit"
    trainer = trainer_of(recipe, pairs)
    batch, readable = batch_of(pairs, 4), batch_of(pairs, 2)
    batch["failure"] = ["", "", "damaged", "missing"]
    model = trainer.model.train()
    loss, outputs = trainer.compute_loss(model, batch, return_outputs=True)
    assert loss.item() == pytest.approx(trainer.compute_loss(model, readable).item(), abs=1e-6)
    assert len(outputs) == 2
    batch["failure"] = ["damaged"] * 4
    loss = trainer.compute_loss(model, batch)
    loss.backward()
    assert loss.item() == 0
    assert not any(parameter.grad.any() for parameter in model.parameters())


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
    trainer = trainer_of(recipe, pairs)
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
    trainer = trainer_of(recipe, pairs)
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
        trainer = trainer_of(recipe, pairs)
        before = trainer.model.head[-1].weight.detach().clone()
        trainer.train()
        return trainer.model.head[-1].weight.detach() - before

    large, small = gradient(16, 1), gradient(4, 4)
    assert large.abs().max() > 1e-3
    torch.testing.assert_close(small, large, rtol=0.05, atol=1e-4)


def test_the_average_follows_with_warm_up_and_is_what_is_evaluated_and_saved(recipe, pairs):
    """Reckoned again step by step, as timm and the recipe's page state it."""
    recipe.optimiser.ema = 0.6
    recipe.schedule.max_steps = 4
    trainer = trainer_of(recipe, pairs)
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


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_lora_is_merged_into_what_is_saved(recipe, pairs, ema):
    recipe.model.backbone, recipe.model.lora_rank, recipe.optimiser.ema = "timm/test_vit", 2, ema
    recipe.schedule.max_steps, recipe.schedule.evaluations = 3, 1
    recipe.optimiser.learning_rate = 1e-2
    trainer = trainer_of(recipe, pairs)
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
    trainer = trainer_of(recipe, pairs)
    before = {n: v.clone() for n, v in trainer.model.backbone.network.state_dict().items()}
    trainer.train()
    for name, value in trainer.model.backbone.network.state_dict().items():
        low = name.startswith(("conv1", "bn1", "layer1", "layer2"))
        if low or "num_batches" not in name:
            assert torch.equal(value, before[name]) == low, name


def test_a_loss_that_is_no_number_stops_with_the_pairs_of_the_batch(recipe, pairs):
    recipe.schedule.max_steps, recipe.schedule.save_every = 6, 2
    trainer = trainer_of(recipe, pairs)

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
        trainer = trainer_of(recipe, pairs)
        trainer.train()
        return weights_now(trainer.model)

    plain, thrifty = trained(False), trained(True)
    for name, value in plain.items():
        torch.testing.assert_close(thrifty[name], value, rtol=1e-3, atol=1e-5)

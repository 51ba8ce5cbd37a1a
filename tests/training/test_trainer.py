from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.training.conftest import After, trainer_of
from unprompt.errors import RecipeError
from unprompt.training.trainer import last_checkpoint


def test_steps_and_evaluations_are_as_the_recipe_says(recipe, pairs):
    recipe.schedule.max_steps = -1
    recipe.schedule.epochs, recipe.schedule.evaluations = 3.5, 2
    trainer = trainer_of(recipe, pairs, rows=20)
    assert trainer.args.max_steps == 11  # 20 pairs are 3 steps of 8; 3.5 times 3, rounded up
    assert trainer.args.eval_steps == trainer.args.save_steps == 6
    assert trainer.args.warmup_steps == 1
    recipe.schedule.precision = "bf16"
    assert trainer_of(recipe, pairs).args.bf16
    recipe.schedule.precision = "auto"
    assert not trainer_of(recipe, pairs).args.fp16


def test_one_process_cannot_spread_a_model(recipe, pairs):
    recipe.schedule.fsdp = True
    with pytest.raises(RecipeError, match="torchrun --nproc-per-node N"):
        trainer_of(recipe, pairs)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_half_precision_needs_cuda(recipe, pairs):
    recipe.schedule.precision = "fp16"
    with pytest.raises(RecipeError, match=r"schedule\.precision=fp16 needs a CUDA device"):
        trainer_of(recipe, pairs)


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


def test_the_rate_falls_to_the_share_that_is_asked(recipe, pairs):
    recipe.optimiser.final, recipe.optimiser.warmup = 0.01, 0.25
    recipe.schedule.max_steps, recipe.schedule.evaluations = 8, 1
    trainer = trainer_of(recipe, pairs)
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

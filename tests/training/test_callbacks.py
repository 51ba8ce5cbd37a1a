from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from transformers import TrainerState

from tests.training.conftest import trainer_of
from unprompt.training.callbacks import RunLog


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


def test_a_run_that_does_not_improve_stops_early_and_stays_ended(recipe, pairs):
    recipe.optimiser.learning_rate = recipe.optimiser.head_learning_rate = 0.0
    recipe.optimiser.frozen_statistics = True
    recipe.schedule.max_steps, recipe.schedule.evaluate_every = 20, 2
    recipe.schedule.patience, recipe.schedule.save_every = 2, 3
    trainer = trainer_of(recipe, pairs)
    trainer.train()
    assert trainer.state.global_step == 6
    assert trainer.has_ended(trainer.state)
    assert trainer.best_checkpoint().name == "checkpoint-2"
    assert trainer.best_checkpoint().is_dir()


def test_evaluations_and_checkpoints_come_when_asked(recipe, pairs):
    recipe.schedule.max_steps, recipe.schedule.evaluate_every = 7, 3
    recipe.schedule.save_every, recipe.schedule.keep = 2, 9
    trainer = trainer_of(recipe, pairs)
    trainer.train()
    folder = Path(recipe.output)
    steps = sorted(int(p.name.split("-")[1]) for p in (folder / "checkpoints").iterdir())
    assert steps == [2, 3, 4, 6, 7]
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    evaluations = [entry for entry in logged if "eval_cosine" in entry]
    assert [entry["step"] for entry in evaluations] == [3, 6, 7]
    by_source = [evaluations[0]["eval_cosine/one"], evaluations[0]["eval_cosine/two"]]
    assert np.mean(by_source) == pytest.approx(evaluations[0]["eval_cosine"], abs=1e-6)

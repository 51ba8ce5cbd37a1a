"""Runs that are stopped in every way go on as if they had not been."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from unprompt.models.embedder import Embedder
from unprompt.training.recipe import Data, Head, Model, Optimiser, Recipe, Schedule, save_recipe

ROOT = Path(__file__).parents[2]


def fork(calls: list[dict]) -> tuple[list[int], str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.forks", json.dumps(calls)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


@dataclass(frozen=True)
class Trial:
    """A recipe in a folder of its own, and what its runs left there."""

    folder: Path
    recipe: Recipe

    @classmethod
    def of(cls, recipe: Recipe, folder: Path) -> Trial:
        folder.mkdir()
        recipe = replace(recipe, output=str(folder / "run"))
        save_recipe(recipe, folder / "recipe.yaml")
        return cls(folder, recipe)

    def call(self, log: str = "steps", **further) -> dict:
        paths = {"recipe": self.folder / "recipe.yaml", "log": self.folder / log}
        return {name: str(path) for name, path in paths.items()} | further

    def steps(self, log: str = "steps") -> list[list]:
        """Step, rows and loss of each batch."""
        return [json.loads(line) for line in (self.folder / log).read_text().splitlines()]

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return Embedder.from_pretrained(self.folder / "run" / "model").state_dict()

    @property
    def metrics(self) -> list[dict]:
        lines = (self.folder / "run" / "metrics.jsonl").read_text().splitlines()
        timeless = [
            {key: value for key, value in json.loads(line).items() if not timed(key)}
            for line in lines
        ]
        return [entry for entry in timeless if set(entry) - {"step", "epoch"}]


def timed(key: str) -> bool:
    return any(part in key for part in ("runtime", "per_second", "train_loss", "flos"))


@pytest.fixture(scope="module")
def whole(pairs, tmp_path_factory) -> Recipe:
    """Everything on that could go another way after a stop: 5 steps an epoch, checkpoints at 4, 8.

    Augmentation, dropout, averaged weights, accumulation, a warm-up, decoding in another process.
    """
    return Recipe(
        data=Data(table=pairs.name, augment="strong", erase=0.5, workers=1),
        model=Model(
            backbone="timm/test_vit",
            pretrained=False,
            size=32,
            head=Head(dropout=0.3),
            arguments={"drop_path_rate": 0.2},
        ),
        optimiser=Optimiser(learning_rate=1e-3, layer_decay=0.8, ema=0.7),
        schedule=Schedule(
            max_steps=12, batch_size=4, accumulation=2, precision="fp32", evaluate_every=4
        ),
    )


@pytest.fixture(scope="module")
def trials(whole, tmp_path_factory) -> tuple[dict[str, Trial], dict[str, int], str]:
    folder = tmp_path_factory.mktemp("trials")
    trials = {
        name: Trial.of(whole, folder / name) for name in ("whole", "kill", "late", "term", "full")
    }
    adapted = replace(whole, data=replace(whole.data, workers=0, draw="prompt"))
    adapted.model = replace(whole.model, lora_rank=2, head=Head("mlp", hidden=16))
    trials |= {name: Trial.of(adapted, folder / name) for name in ("adapted", "adapted-kill")}
    calls = {
        "whole": trials["whole"].call(),
        "kill": trials["kill"].call(then={"6": "kill"}),
        "kill again": trials["kill"].call("again"),
        "late": trials["late"].call(then={"11": "kill"}),
        "late again": trials["late"].call("again"),
        "term": trials["term"].call(then={"6": "term"}),
        "term again": trials["term"].call("again"),
        "full": trials["full"].call(then={"6": "full"}),
        "full again": trials["full"].call("again"),
        "adapted": trials["adapted"].call(),
        "adapted-kill": trials["adapted-kill"].call(then={"7": "kill"}),
        "adapted-kill again": trials["adapted-kill"].call("again"),
    }
    codes, errors = fork(list(calls.values()))
    return trials, dict(zip(calls, codes, strict=True)), errors


def same(trial: Trial, other: Trial) -> None:
    weights, others = trial.weights, other.weights
    assert weights.keys() == others.keys()
    for name, value in weights.items():
        assert torch.equal(value, others[name]), name


@pytest.mark.parametrize(
    ("name", "like", "checkpoint"),
    [("kill", "whole", 4), ("late", "whole", 8), ("adapted-kill", "adapted", 4)],
)
def test_a_killed_run_ends_with_the_same_weights_to_the_bit(trials, name, like, checkpoint):
    found, codes, errors = trials
    assert codes[name] == -signal.SIGKILL, errors
    assert codes[like] == codes[f"{name} again"] == 0, errors
    before, after = found[name].steps(), found[name].steps("again")
    assert after[0][0] == checkpoint + 1
    kept = [entry for entry in before if entry[0] <= checkpoint]
    # The same pairs in the same order with the same losses, to the last bit.
    assert kept + after == found[like].steps()
    same(found[name], found[like])
    assert found[name].metrics == found[like].metrics


def test_every_epoch_of_a_killed_run_shows_every_pair_once(trials):
    found, _, _ = trials
    kept = [entry for entry in found["kill"].steps() if entry[0] <= 4]
    rows = [row for _, rows, _ in kept + found["kill"].steps("again") for row in rows]
    assert sorted(rows[:40]) == sorted(rows[40:80]) == list(range(40))
    assert rows[:40] != rows[40:80]


def test_a_run_that_is_asked_to_stop_saves_and_goes_on(trials):
    found, codes, errors = trials
    assert codes["term"] == 128 + signal.SIGTERM
    # The signal came after step 6, and the step that was under way is finished.
    assert "stopped after step 7 and its checkpoint; the same command goes on" in errors
    assert found["term"].steps()[-1][0] == 7
    assert found["term"].steps() + found["term"].steps("again") == found["whole"].steps()
    assert codes["term again"] == 0
    same(found["term"], found["whole"])


def test_a_full_disk_ends_the_run_and_leaves_its_last_checkpoint(trials):
    found, codes, errors = trials
    assert codes["full"] == 1, errors
    assert "the disk is full" in errors
    assert "the same command then goes on from it" in errors
    assert codes["full again"] == 0
    assert found["full"].steps("again")[0][0] == 5
    same(found["full"], found["whole"])


@pytest.mark.slow
def test_thirty_kills_at_random_moments_change_nothing(whole, tmp_path):
    """As many moments as it takes: steps, looks, checkpoints half written, the last evaluation."""
    recipe = replace(whole, schedule=replace(whole.schedule, max_steps=60, evaluate_every=3))
    one, other = (Trial.of(recipe, tmp_path / name) for name in ("whole", "killed"))
    drawn = random.Random(0)
    kills = [other.call(seconds=drawn.uniform(0.5, 4.0)) for _ in range(30)]
    codes, errors = fork([one.call(), *kills, other.call("again")])
    assert codes[0] == codes[-1] == 0, errors
    assert codes[1:-1].count(-signal.SIGKILL) >= 25
    same(other, one)
    assert other.metrics == one.metrics


@pytest.mark.slow
def test_two_processes_go_on_after_a_kill(whole, tmp_path):
    """Killed in the middle of the second epoch: the first process by a signal, so all."""
    recipe = replace(whole, data=replace(whole.data, workers=0))
    recipe.schedule = replace(whole.schedule, accumulation=1, max_steps=14, evaluate_every=4)
    one, other = (Trial.of(recipe, tmp_path / name) for name in ("whole", "killed"))

    def torchrun(call: dict) -> int:
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
        command += ["--master-port", "29517", "-m", "tests.training.forks", json.dumps([call])]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, cwd=ROOT, env=environment, timeout=300, check=False)
        return done.returncode

    assert torchrun(one.call()) == 0
    assert torchrun(other.call(then={"10": "kill"})) != 0
    assert torchrun(other.call("again")) == 0
    for rank in "01":
        kept = [entry for entry in other.steps(f"steps{rank}") if entry[0] <= 8]
        found = kept + other.steps(f"again{rank}")
        expected = one.steps(f"steps{rank}")
        assert [entry[:2] for entry in found] == [entry[:2] for entry in expected]
        for entry, wanted in zip(found, expected, strict=True):
            loss, wanted_loss = float.fromhex(entry[2]), float.fromhex(wanted[2])
            assert loss == pytest.approx(wanted_loss, abs=1e-6)
    first = [rows for rank in "01" for step, rows, _ in one.steps(f"steps{rank}") if step <= 5]
    assert sorted(row for rows in first for row in rows) == list(range(40))
    weights, others = one.weights, other.weights
    for name, value in weights.items():
        torch.testing.assert_close(others[name], value, rtol=1e-6, atol=1e-6)

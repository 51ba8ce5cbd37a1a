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

from tests.training.forks import ROOT, fork
from unprompt.models.embedder import Embedder
from unprompt.training.recipe import Data, Head, Model, Optimiser, Recipe, Schedule, save_recipe


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

    Augmentation, dropout (of patches too), averaged weights, accumulation, a warm-up, decoding in
    another process.
    """
    return Recipe(
        data=Data(table=pairs.name, augment="strong", erase=0.5, workers=1),
        model=Model(
            backbone="timm/test_vit",
            pretrained=False,
            size=32,
            patch_dropout=0.5,
            head=Head(dropout=0.3),
            arguments={"drop_path_rate": 0.2},
        ),
        optimiser=Optimiser(learning_rate=1e-3, layer_decay=0.8, ema=0.7),
        schedule=Schedule(
            max_steps=12, batch_size=4, accumulation=2, precision="fp32", evaluate_every=4
        ),
    )


@dataclass(frozen=True)
class Outcome:
    """Trials by name, and for each call its exit code and what all of them told."""

    trials: dict[str, Trial]
    codes: dict[str, int]
    errors: str


@pytest.fixture(scope="module")
def outcome(whole, tmp_path_factory) -> Outcome:
    """One run undisturbed, and one killed, gone on, asked to stop, gone on, and so forth."""
    folder = tmp_path_factory.mktemp("trials")
    trials = {name: Trial.of(whole, folder / name) for name in ("whole", "stopped")}
    calls = {
        "whole": trials["whole"].call(),
        "kill": trials["stopped"].call("one", then={"6": "kill"}),
        # The signal comes between two steps; the one that follows is finished and saved.
        "term": trials["stopped"].call("two", then={"6": "term"}),
        "full": trials["stopped"].call("three", then={"8": "full"}),
        "end": trials["stopped"].call("four"),
    }
    codes, errors = fork(list(calls.values()))
    return Outcome(trials, dict(zip(calls, codes, strict=True)), errors)


def same(trial: Trial, other: Trial) -> None:
    weights, others = trial.weights, other.weights
    assert weights.keys() == others.keys()
    for name, value in weights.items():
        assert torch.equal(value, others[name]), name


def test_a_run_stopped_in_three_ways_ends_with_the_same_weights_to_the_bit(outcome):
    codes, stopped, whole = outcome.codes, outcome.trials["stopped"], outcome.trials["whole"]
    assert codes["whole"] == codes["end"] == 0, outcome.errors
    same(stopped, whole)
    # The same pairs in the same order with the same losses, to the last bit.
    kept = [entry for entry in stopped.steps("one") if entry[0] <= 4]
    kept += stopped.steps("two")
    assert kept + stopped.steps("four") == whole.steps()


def test_every_epoch_of_a_stopped_run_shows_every_pair_once(outcome):
    stopped = outcome.trials["stopped"]
    kept = [entry for entry in stopped.steps("one") if entry[0] <= 4]
    kept += stopped.steps("two") + stopped.steps("four")
    rows = [row for _, rows, _ in kept for row in rows]
    assert sorted(rows[:40]) == sorted(rows[40:80]) == list(range(40))
    assert rows[:40] != rows[40:80]


def test_a_killed_run_goes_on_from_its_last_checkpoint(outcome):
    assert outcome.codes["kill"] == -signal.SIGKILL, outcome.errors
    assert outcome.trials["stopped"].steps("two")[0][0] == 5


def test_a_run_that_is_asked_to_stop_saves_first(outcome):
    assert outcome.codes["term"] == 128 + signal.SIGTERM, outcome.errors
    message = "stopped after step 7; a checkpoint was saved, run the same command to continue"
    assert message in outcome.errors
    assert outcome.trials["stopped"].steps("three")[0][0] == 8


def test_a_full_disk_ends_the_run_and_leaves_its_last_checkpoint(outcome):
    assert outcome.codes["full"] == 1, outcome.errors
    assert "the disk is full" in outcome.errors
    assert "the same command then resumes from it" in outcome.errors
    assert outcome.trials["stopped"].steps("four")[0][0] == 8


@pytest.mark.slow
@pytest.mark.parametrize("how", ["plain", "adapted", "compiled"])
def test_a_run_killed_once_logs_the_same_too(whole, tmp_path, how):
    """Late in the second epoch; and LoRA, a wide head and one picture of each prompt."""
    recipe = whole
    if how == "compiled":
        recipe = replace(whole, data=replace(whole.data, workers=0))
        recipe.schedule = replace(whole.schedule, compile=True)
    if how == "adapted":
        recipe = replace(whole, data=replace(whole.data, workers=0, sample_by="prompt"))
        recipe.model = replace(whole.model, lora_rank=2, head=Head("mlp", hidden=16))
    one, other = (Trial.of(recipe, tmp_path / name) for name in ("whole", "killed"))
    calls = [one.call(), other.call(then={"11": "kill"}), other.call("again")]
    codes, errors = fork(calls)
    assert codes == [0, -signal.SIGKILL, 0], errors
    same(other, one)
    assert other.metrics == one.metrics
    kept = [entry for entry in other.steps() if entry[0] <= 8]
    assert kept + other.steps("again") == one.steps()


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


def torchrun(call: dict) -> tuple[int, str]:
    """Exit code and errors of a call by two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-port", "29517", "-m", "tests.training.forks", json.dumps([call])]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        timeout=300,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True])
def test_two_processes_go_on_after_a_kill(whole, tmp_path, sharded):
    """Killed in the middle of the second epoch: the first process by a signal, so all."""
    recipe = replace(whole, data=replace(whole.data, workers=0))
    recipe.schedule = replace(
        whole.schedule, accumulation=1, max_steps=14, evaluate_every=4, fsdp=sharded
    )
    if sharded:
        recipe.optimiser = replace(whole.optimiser, ema=0.0)
    one, other = (Trial.of(recipe, tmp_path / name) for name in ("whole", "killed"))
    code, errors = torchrun(one.call(shard_on_cpu=sharded))
    assert code == 0, errors
    assert torchrun(other.call(then={"10": "kill"}, shard_on_cpu=sharded))[0] != 0
    code, errors = torchrun(other.call("again", shard_on_cpu=sharded))
    assert code == 0, errors
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
    if sharded:
        code, errors = torchrun(Trial.of(recipe, tmp_path / "refused").call())
        assert code != 0
        assert "spreads a model over GPUs only" in errors

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.training.conftest import colours_and_noise
from unprompt.errors import MissingExtraError, RecipeError, TableError
from unprompt.models.bank import Bank
from unprompt.models.embedder import Embedder
from unprompt.pairs.table import load, save
from unprompt.training.recipe import Recipe, load_recipe, save_recipe
from unprompt.training.run import build, prepare, train


def steps_of(run: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return Embedder.from_pretrained(run / "model").state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-5)


def test_a_run_leaves_a_measured_model(recipe, pairs, capsys):
    recipe.schedule.probe = True
    finished = train(recipe)
    folder = Path(recipe.output)
    assert finished.folder == folder
    assert capsys.readouterr().out == ""
    assert load_recipe(folder / "recipe.yaml") == recipe
    assert len(load(folder / "pairs.parquet")) == len(pairs)
    kept = sorted(path.name for path in (folder / "checkpoints").glob("checkpoint-*"))
    assert "checkpoint-6" in kept
    assert len(kept) <= 3
    model = Embedder.from_pretrained(finished.model)
    assert model.architecture.dim == pairs.embeddings.shape[1]
    bank = Bank.load(finished.model)
    assert sorted(bank.prompts) == sorted(pairs.of_split("train").prompts)
    assert bank.calibration is not None
    assert bank.calibration.pairs == 10
    scores = json.loads((folder / "scores.json").read_text())
    assert set(scores) == {"val", "test"}
    assert scores["test"]["model"]["pairs"] == 10
    assert len(scores["test"]["baselines"]) == 3
    assert set(scores["val"]["model"]["per_source"]) == {"one", "two"}
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    looks = {entry["step"]: entry["eval_cosine"] for entry in logged if "eval_cosine" in entry}
    assert list(looks) == [2, 4, 6]
    # The model is that of the best look, and evaluation agrees with the trainer's own.
    assert scores["val"]["model"]["cosine"] == pytest.approx(max(looks.values()), abs=1e-3)
    assert "probe_cosine" in logged[0]
    # The finished run again: nothing is trained, the scores are the same.
    again = train(recipe)
    assert again.scores["test"].model.overall == finished.scores["test"].model.overall
    assert max(steps_of(folder)) == 6
    # Another recipe is refused, and nothing of the run is lost.
    with pytest.raises(RecipeError, match="holds the run of another recipe"):
        train(replace(recipe, seed=7))
    assert load_recipe(folder / "recipe.yaml") == recipe
    assert not (folder / "asked.yaml").exists()
    # --fresh starts over.
    (folder / "left.txt").write_text("from before")
    recipe.schedule.max_steps = 2
    train(recipe, fresh=True)
    assert max(steps_of(folder)) == 2
    assert not (folder / "left.txt").exists()


KILLED = """
import os, signal, sys
from transformers import TrainerCallback
from unprompt.cli import main
from unprompt.training import trainer

class Kill(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == {step}:
            os.kill(os.getpid(), signal.SIGKILL)

before = trainer.EmbedderTrainer.__init__
def init(self, *arguments, **kwargs):
    before(self, *arguments, **kwargs)
    self.add_callback(Kill())
trainer.EmbedderTrainer.__init__ = init
sys.argv = ["unprompt", "train", {path!r}]
main()
"""


def test_a_killed_run_goes_on_and_ends_the_same(recipe, tmp_path):
    """Killed with SIGKILL after its first checkpoint, and a half-written one left behind."""
    path = tmp_path / "recipe.yaml"
    save_recipe(recipe, path)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    killed = subprocess.run(
        [sys.executable, "-c", KILLED.format(step=3, path=str(path))],
        env=environment,
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    run = Path(recipe.output)
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["checkpoint-2"]
    assert not (run / "model").exists()
    half = run / "checkpoints" / "checkpoint-4"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half of it")
    resumed = subprocess.run(
        [str(Path(sys.executable).with_name("unprompt")), "train", str(path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert resumed.returncode == 0, resumed.stderr
    assert "mean cosine" in resumed.stdout
    assert f"model: {run / 'model'}" in resumed.stderr
    assert "step 2/6" not in resumed.stderr
    assert "step 4/6" in resumed.stderr
    assert max(steps_of(run)) == 6
    assert steps_of(run) == sorted(steps_of(run))
    assert json.loads((run / "scores.json").read_text())["test"]["model"]["pairs"] == 10
    whole = replace(recipe, output=str(tmp_path / "whole"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the killed run had: sums differ with the number of threads
    train(whole)
    torch.set_num_threads(threads)
    same(weights_of(Path(whole.output)), weights_of(run))


def test_a_table_without_splits_is_encoded_and_split_by_group(recipe, sketches, pairs, tmp_path):
    bare = load(sketches)
    table = bare.with_columns({"embedding": colours_and_noise(bare.prompts)})
    save(table, tmp_path / "bare.parquet")
    recipe.data.table = str(tmp_path / "bare.parquet")
    recipe.data.val, recipe.data.test, recipe.data.threshold = 0.2, 0.2, 0.95
    found = prepare(recipe, tmp_path / "run")
    counts = {split: found.column("split").count(split) for split in ("train", "val", "test")}
    assert sum(counts.values()) == len(table)
    assert min(counts.values()) >= 6
    assert found.has("group")
    recipe.data.table = "nowhere"
    assert prepare(recipe, tmp_path / "run").column("split") == found.column("split")


def test_prompts_are_encoded_by_the_real_encoder(recipe, sketches, tmp_path):
    recipe.data.table = str(sketches)
    recipe.data.threshold = 0.99
    found = prepare(recipe, tmp_path / "run")
    assert found.embeddings.shape == (60, 384)
    from unprompt.encoding import encode

    expected = encode(found.prompts[:2], recipe.model.encoder, precision="fp32")
    assert abs(found.embeddings[:2] - expected).max() < 1e-3


def test_reports_go_to_tensorboard(recipe):
    recipe.report_to = "tensorboard"
    recipe.schedule.max_steps, recipe.schedule.evaluations = 2, 1
    train(recipe)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (events,) = Path(recipe.output).rglob("events.out.tfevents.*")
    log = EventAccumulator(str(events.parent))
    log.Reload()
    assert "eval/cosine" in log.Tags()["scalars"]
    assert math.isfinite(log.Scalars("eval/cosine")[-1].value)


def test_a_reporter_that_is_not_installed(recipe, monkeypatch):
    recipe.report_to = "wandb"
    monkeypatch.setattr("unprompt.errors.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="this needs wandb"):
        train(recipe)
    assert not Path(recipe.output).exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read_names_its_row(recipe, pairs, tmp_path, workers):
    for row, file in enumerate(pairs.column("file")[:40]):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        content = b"no image" if row == 5 else (pairs.root / file).read_bytes()
        (tmp_path / file).write_bytes(content)
    some = pairs.take(range(40)).with_columns({"split": ["train"] * 30 + ["val"] * 10})
    moved = type(some)(some.data, tmp_path, some.name)
    save(moved, tmp_path / "pairs.parquet")
    recipe.data.table = str(tmp_path / "pairs.parquet")
    recipe.data.workers = workers
    with pytest.raises(TableError, match=r"cannot be|not an image") as caught:
        train(recipe)
    assert "\n" not in str(caught.value)
    assert "pairs.parquet, row" in str(caught.value)


def test_tables_that_cannot_be_trained_on(recipe, pairs, tmp_path):
    def refused(**columns) -> str:
        save(pairs.with_columns(columns), tmp_path / "other.parquet")
        recipe.data.table = str(tmp_path / "other.parquet")
        with pytest.raises(TableError) as caught:
            train(recipe, fresh=True)
        return str(caught.value)

    assert "no row of the split 'val'" in refused(split=["train"] * 60)
    assert "are zero" in refused(embedding=pairs.embeddings * 0)
    recipe.data.table = str(tmp_path / "nowhere.parquet")
    with pytest.raises(TableError, match="no such pairs table"):
        train(recipe, fresh=True)


def test_fresh_deletes_nothing_but_runs(recipe):
    folder = Path(recipe.output)
    folder.mkdir()
    (folder / "thesis.txt").write_text("precious")
    with pytest.raises(RecipeError, match="not a run folder; nothing was deleted"):
        train(recipe, fresh=True)
    assert (folder / "thesis.txt").read_text() == "precious"


def test_a_run_goes_on_from_another_model(recipe, tmp_path):
    torch.manual_seed(1)
    before = build(recipe, 12)
    before.save_pretrained(tmp_path / "before")
    recipe.model.start = str(tmp_path / "before")
    recipe.model.backbone = "timm/not_looked_at"
    after = build(recipe, 12)
    same(before.state_dict(), after.state_dict())
    wider = build(recipe, 13)
    same(before.backbone.state_dict(), wider.backbone.state_dict())
    assert wider.head[-1].out_features == 13
    recipe.model.size = 48
    assert build(recipe, 12).preprocessing.size == 48


def test_training_crops_may_be_smaller_than_the_models_input(recipe):
    recipe.model.size, recipe.data.train_size, recipe.data.augment = 64, 32, "mild"
    recipe.schedule.max_steps, recipe.schedule.evaluations = 2, 1
    recipe.optimiser.warmup_steps = 1
    finished = train(recipe)
    assert Embedder.from_pretrained(finished.model).preprocessing.size == 64


def test_the_models_own_mean_and_std(recipe: Recipe):
    recipe.model.mean, recipe.model.std = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    model = build(recipe, 12)
    assert model.preprocessing.mean == (0.1, 0.2, 0.3)
    assert model.preprocessing.std == (0.4, 0.5, 0.6)


def test_wrong_calls_of_train_end_with_two(recipe, tmp_path, monkeypatch, capsys):
    from unprompt.cli import main

    path = tmp_path / "recipe.yaml"
    save_recipe(recipe, path)

    def refused(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["unprompt", "train", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        assert (end.value.code, out) == (2, "")
        return err

    assert "no such recipe" in refused(tmp_path / "nowhere.yaml")
    assert "did you mean 'epochs'?" in refused(path, "schedule.epoch=3")
    assert "must be key=value" in refused(path, "schedule.epochs")
    assert "no such pairs table" in refused(path, "data.table=nowhere.parquet")
    assert "near: " in refused(path, "model.backbone=timm/test_resnot", "--fresh")


def test_train_prints_its_scores(recipe, tmp_path, monkeypatch, capsys):
    from unprompt.cli import main

    path = tmp_path / "recipe.yaml"
    save_recipe(recipe, path)
    monkeypatch.setattr(sys, "argv", ["unprompt", "train", str(path), "schedule.max_steps=2"])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    out, err = capsys.readouterr()
    assert out.count("mean cosine") == 2
    assert "step 2/2: cosine on val" in err
    assert "model: " in err

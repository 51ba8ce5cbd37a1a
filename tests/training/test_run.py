from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file

from unprompt.errors import MissingExtraError, RecipeError, TableError, TrainingError
from unprompt.models.bank.bank import Bank
from unprompt.models.embedder import Embedder
from unprompt.pairs.table import load, save
from unprompt.predicting.embedding_model import TorchModel
from unprompt.training.recipe import load_recipe, save_recipe
from unprompt.training.run import prepare, train
from unprompt.training.run_folder import read_failures
from unprompt.training.train_embedder import build, create_trainer


def steps_of(run: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return Embedder.from_pretrained(run / "model").state_dict()


def test_without_epochs_the_fitted_head_is_the_model(recipe, pairs, tmp_path, monkeypatch):
    monkeypatch.setenv("UNPROMPT_CACHE", str(tmp_path / "cache"))
    seen = []
    run = TorchModel.run
    monkeypatch.setattr(TorchModel, "run", lambda *a: seen.append(len(a[1])) or run(*a))
    recipe.schedule.linear_probe, recipe.schedule.epochs, recipe.schedule.max_steps = True, 0, -1
    finished = train(recipe)
    # Those of train once, for the fit and for the baselines; those of val and test again, to
    # measure what was saved.
    assert sum(seen) == 40 + 2 * 10 + 10
    assert len(finished.scores["test"].baselines) == 3
    folder = Path(recipe.output)
    assert not (folder / "checkpoints").exists()
    (entry,) = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    score = json.loads((folder / "scores.json").read_text())["val"]["model"]["cosine"]
    assert score == pytest.approx(entry["linear_probe_cosine"], abs=1e-3)
    assert Embedder.from_pretrained(finished.model).architecture.dim == pairs.embeddings.shape[1]


def test_a_run_leaves_a_measured_model(recipe, pairs, capsys):
    recipe.schedule.linear_probe = True
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
    assert "linear_probe_cosine" in logged[0]
    for name in ("loss.png", "score.png"):
        assert Image.open(folder / name).size > (400, 200)
    (call,) = [json.loads(line) for line in (folder / "calls.jsonl").read_text().splitlines()]
    assert call["versions"]["torch"] == torch.__version__.split("+")[0]
    assert call["data"]["rows"] == {"train": 40, "val": 10, "test": 10}
    assert len(call["git"]["commit"]) == 40
    # The finished run again: nothing is trained, the scores are the same.
    again = train(recipe)
    assert again.scores["test"].model.overall == finished.scores["test"].model.overall
    assert max(steps_of(folder)) == 6
    # Another recipe is refused, and nothing of the run is lost.
    with pytest.raises(RecipeError, match="holds the run of another recipe"):
        train(replace(recipe, seed=7))
    assert load_recipe(folder / "recipe.yaml") == recipe
    # --fresh starts over.
    (folder / "left.txt").write_text("from before")
    recipe.schedule.max_steps = 2
    train(recipe, fresh=True)
    assert max(steps_of(folder)) == 2
    assert not (folder / "left.txt").exists()


def test_reports_go_to_tensorboard(recipe):
    recipe.report_to = "tensorboard"
    recipe.schedule.max_steps, recipe.schedule.evaluations = 2, 1
    finished = train(recipe)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (events,) = Path(recipe.output).rglob("events.out.tfevents.*")
    log = EventAccumulator(str(events.parent))
    log.Reload()
    assert "eval/cosine" in log.Tags()["scalars"]
    reported = log.Scalars("eval/cosine")[-1]
    assert reported.step == 2
    assert reported.value == pytest.approx(finished.scores["val"].model.overall.mean, abs=1e-4)


@pytest.mark.slow
def test_reports_stay_here_with_wandb_offline(recipe, monkeypatch, tmp_path):
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    recipe.report_to = "wandb"
    recipe.schedule.max_steps, recipe.schedule.evaluations = 2, 1
    train(recipe)
    wandb.finish()
    assert list(tmp_path.rglob("offline-run-*/*.wandb"))


def test_a_reporter_that_is_not_installed(recipe, monkeypatch):
    recipe.report_to = "wandb"
    monkeypatch.setattr("unprompt.errors.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="this needs wandb"):
        train(recipe)
    assert not Path(recipe.output).exists()


@pytest.fixture
def damaged(pairs, tmp_path) -> Path:
    """A table of 8 pairs to train on and 10 for val, of which images 5 and 33 are none."""
    for row, file in enumerate(pairs.column("file")[:40]):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        content = b"no image" if row in (5, 33) else (pairs.root / file).read_bytes()
        (tmp_path / file).write_bytes(content)
    some = pairs.take(range(40)).with_columns({"split": ["train"] * 8 + [None] * 22 + ["val"] * 10})
    save(type(some)(some.data, tmp_path, some.name), tmp_path / "pairs.parquet")
    return tmp_path / "pairs.parquet"


@pytest.mark.parametrize("workers", [0, 1])
def test_images_that_cannot_be_read_are_named_counted_and_passed_over(
    recipe, damaged, workers, capsys
):
    recipe.data.table, recipe.data.workers = str(damaged), workers
    recipe.schedule.max_steps, recipe.schedule.evaluations = 2, 1
    finished = train(recipe)
    assert len(finished.failures) == 2
    assert all("pairs.parquet, row" in line for line in finished.failures)
    assert all("not an image" in line for line in finished.failures)
    assert capsys.readouterr().err.count("passed over") == 1
    weights = Embedder.from_pretrained(finished.model).state_dict()
    assert all(torch.isfinite(value).all() for value in weights.values())
    assert finished.scores["val"].model.overall.count == 9
    logged = [json.loads(line) for line in (finished.folder / "metrics.jsonl").open()]
    best = max(entry["eval_cosine"] for entry in logged if "eval_cosine" in entry)
    assert best == pytest.approx(finished.scores["val"].model.overall.mean, abs=1e-4)


def test_a_batch_without_one_readable_image_changes_nothing(recipe, damaged, tmp_path):
    splits = ["train" if row == 5 else "val" if row in (31, 32) else None for row in range(40)]
    table = load(damaged).with_columns({"split": splits})
    save(table, tmp_path / "one.parquet")
    recipe.data.table = str(tmp_path / "one.parquet")
    recipe.schedule.batch_size, recipe.schedule.max_steps, recipe.schedule.evaluations = 1, 2, 1
    recipe.model.backbone, recipe.optimiser.weight_decay = "timm/test_vit", 0.0
    trainer = create_trainer(recipe, prepare(recipe, Path(recipe.output)))
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    assert trainer.state.global_step == 2
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert len(read_failures(Path(recipe.output))) == 1


def test_memory_that_runs_out_says_what_to_lower(recipe):
    recipe.model.head.type, recipe.model.head.hidden = "mlp", 10**12
    recipe.schedule.batch_size, recipe.schedule.accumulation = 32, 2
    with pytest.raises(TrainingError, match="out of memory") as caught:
        train(recipe)
    assert "try schedule.batch_size=16 schedule.accumulation=4" in str(caught.value)
    assert "schedule.gradient_checkpointing=true" in str(caught.value)


def test_every_part_together(recipe, damaged, shapes):
    """Most of the recipe's words at once, on a transformer; each has left its mark."""
    recipe.data.table = str(damaged)
    recipe.data.augment, recipe.data.erase, recipe.data.train_size = "strong", 0.3, 16
    recipe.data.sample_by, recipe.data.weights = "prompt", {"one": 2.0}
    recipe.model.backbone, recipe.model.freeze = "timm/test_vit", 1
    recipe.model.arguments = {"dynamic_img_size": True}
    recipe.loss.contrastive, recipe.loss.mse = 0.1, 0.1
    recipe.optimiser.name, recipe.optimiser.layer_decay = "lion", 0.7
    recipe.optimiser.ema, recipe.optimiser.final = 0.9, 0.01
    recipe.schedule.linear_probe, recipe.schedule.gradient_checkpointing = True, True
    recipe.schedule.patience, recipe.schedule.accumulation, recipe.schedule.batch_size = 5, 2, 2
    finished = train(recipe)
    # One image of train and one of val are passed over.
    assert finished.scores["val"].model.overall.count == 9
    assert len(finished.failures) == 2
    assert shapes == {True: {(3, 16, 16)}, False: {(3, 32, 32)}}
    logged = [json.loads(line) for line in (finished.folder / "metrics.jsonl").open()]
    assert logged[0]["linear_probe_cosine"] > 0.4
    # 8 pairs, of which source "one" has 4: 12 to show, 3 steps of 2 times 2.
    assert logged[-1]["epoch"] == pytest.approx(2)
    last = finished.folder / "checkpoints" / "checkpoint-6"
    optimiser = torch.load(last / "optimizer.pt")
    assert {name for state in optimiser["state"].values() for name in state} == {"exp_avg"}
    rates = {group["name"]: group["lr"] for group in optimiser["param_groups"]}
    # Layer 0 is the stem, 1 to 6 are blocks, 7 is the last norm; 0 and 1 are frozen.
    layers = sorted(int(name.split()[1]) for name in rates if name != "head")
    top = max(layers)
    assert min(layers) == 2
    for layer in layers:
        expected = 0.01 * 1e-3 * 0.7 ** (top - layer)
        assert rates[f"backbone {layer}"] == pytest.approx(expected), layer
    assert rates["head"] == pytest.approx(0.01 * 1e-2)
    # The saved model is the average and not the weights that learn; frozen ones never moved.
    transformers.set_seed(recipe.seed)
    first = build(recipe, 12).state_dict()
    average, learner = (
        load_file(last / "model.safetensors"),
        load_file(last / "learner.safetensors"),
    )
    for name, value in average.items():
        frozen = re.search(r"patch_embed|pos_embed|cls_token|blocks\.0\.", name) is not None
        assert torch.equal(value, first[name]) == frozen, name
        assert torch.equal(value, learner[name]) == frozen, name


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


@pytest.fixture
def shapes(monkeypatch) -> dict[bool, set[tuple[int, ...]]]:
    """Shapes of the images that embedders get: in training (true) and in evaluation (false)."""
    seen: dict[bool, set[tuple[int, ...]]] = {True: set(), False: set()}
    features = Embedder.features

    def watched(self: Embedder, pixels: torch.Tensor) -> torch.Tensor:
        seen[self.training].add(tuple(pixels.shape[1:]))
        return features(self, pixels)

    monkeypatch.setattr(Embedder, "features", watched)
    return seen


@pytest.mark.parametrize("augment", ["none", "mild"])
def test_training_crops_may_be_smaller_than_the_models_input(recipe, shapes, augment):
    recipe.model.size, recipe.data.train_size, recipe.data.augment = 64, 32, augment
    recipe.schedule.max_steps, recipe.schedule.evaluations = 2, 1
    finished = train(recipe)
    assert shapes == {True: {(3, 32, 32)}, False: {(3, 64, 64)}}
    assert Embedder.from_pretrained(finished.model).preprocessing.size == 64


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


def test_images_decoded_once_give_the_same_run(recipe, tmp_path, capsys):
    recipe.data.augment, recipe.data.decode_once = "mild", False
    train(recipe)
    expected = weights_of(Path(recipe.output))
    assert "decode_once: no, as the recipe says" in capsys.readouterr().err
    recipe.output, recipe.data.decode_once = str(tmp_path / "once"), "auto"
    train(recipe)
    assert "decode_once: 50 images, 0 MB of pixels to write to " in capsys.readouterr().err
    found = weights_of(tmp_path / "once")
    assert all(torch.equal(found[name], value) for name, value in expected.items())

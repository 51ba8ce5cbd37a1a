from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.training.conftest import colours_and_noise
from unprompt.errors import MissingExtraError, RecipeError, TableError, TrainingError
from unprompt.models.bank.bank import Bank
from unprompt.models.embedder import Embedder
from unprompt.pairs.table import load, save
from unprompt.predicting.embedding_model import TorchModel
from unprompt.training.recipe import Recipe, load_recipe, save_recipe
from unprompt.training.run import prepare, train
from unprompt.training.train_embedder import build


def steps_of(run: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return Embedder.from_pretrained(run / "model").state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-5)


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


def test_a_batch_without_one_readable_image_changes_nothing(recipe, damaged):
    recipe.data.table = str(damaged)
    recipe.schedule.batch_size, recipe.schedule.max_steps = 1, 8
    recipe.schedule.evaluations = 1
    recipe.model.backbone = "timm/test_vit"
    assert len(train(recipe).failures) == 2


def test_memory_that_runs_out_says_what_to_lower(recipe):
    recipe.model.head.type, recipe.model.head.hidden = "mlp", 10**12
    recipe.schedule.batch_size, recipe.schedule.accumulation = 32, 2
    with pytest.raises(TrainingError, match="out of memory") as caught:
        train(recipe)
    assert "try schedule.batch_size=16 schedule.accumulation=4" in str(caught.value)
    assert "schedule.gradient_checkpointing=true" in str(caught.value)


def test_a_fold_is_held_out_and_the_others_train(recipe, pairs, tmp_path):
    splits = enumerate(pairs.column("split"))
    folds = [None if split == "test" else row % 3 for row, split in splits]
    folds[0] = None  # of a group too large for a fold
    save(pairs.with_columns({"fold": folds}), tmp_path / "folds.parquet")
    recipe.data.table, recipe.data.fold = str(tmp_path / "folds.parquet"), 1
    found = prepare(recipe, tmp_path / "run")
    for split, fold in zip(found.column("split"), folds, strict=True):
        assert split == ("val" if fold == 1 else split if split == "test" else "train")
    assert found.column("split")[:2] == ["train", "val"]
    recipe.data.fold = 3
    with pytest.raises(RecipeError, match=r"data\.fold=3: .* has the folds \[0, 1, 2\]"):
        prepare(recipe, tmp_path / "other")
    recipe.data.table = pairs.name
    with pytest.raises(RecipeError, match="has no folds; run: unprompt split --folds"):
        prepare(recipe, tmp_path / "other")


def test_a_wide_head_is_trained_first(recipe):
    recipe.model.head.type, recipe.model.head.hidden = "mlp", 32
    recipe.schedule.head_epochs, recipe.schedule.max_steps = 40, 1
    recipe.schedule.evaluations = 1
    recipe.optimiser.learning_rate = 0.0
    finished = train(recipe)
    logged = [json.loads(line) for line in (finished.folder / "metrics.jsonl").open()]
    # A head that has learned nothing scores about 0; features of a random tower tell little more.
    assert logged[0]["head_cosine"] > 0.2


def test_every_part_together(recipe):
    """All of the recipe's words at once, on a transformer."""
    recipe.data.augment, recipe.data.erase = "strong", 0.3
    recipe.data.sample_by, recipe.data.weights = "prompt", {"one": 2.0}
    recipe.model.backbone, recipe.model.freeze = "timm/test_vit", 1
    recipe.loss.contrastive, recipe.loss.mse = 0.1, 0.1
    recipe.optimiser.name, recipe.optimiser.layer_decay = "lion", 0.7
    recipe.optimiser.ema, recipe.optimiser.final = 0.9, 0.01
    recipe.schedule.linear_probe, recipe.schedule.gradient_checkpointing = True, True
    recipe.schedule.patience, recipe.schedule.accumulation = 5, 2
    finished = train(recipe)
    assert finished.scores["test"].model.overall.count == 10
    assert finished.failures == []


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


def test_a_start_keeps_its_head_where_the_recipe_names_none(recipe, pairs, tmp_path):
    from unprompt.models.heads import HeadConfig

    recipe.model.head.type, recipe.model.head.hidden = "mlp", 8
    before = build(recipe, 12)
    before.save_pretrained(tmp_path / "start")
    recipe.model.head = type(recipe.model.head)()
    recipe.model.start = str(tmp_path / "start")
    model = build(recipe, 12)
    assert model.architecture.head == HeadConfig("mlp", 8)
    for name, value in before.head.state_dict().items():
        assert torch.equal(model.head.state_dict()[name], value)
    recipe.model.head.type, recipe.model.head.dropout = "linear", 0.5
    assert build(recipe, 12).architecture.head == HeadConfig("linear", dropout=0.5)

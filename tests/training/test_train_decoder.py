"""A decoder's recipe: from a text file to a model that writes, and on where it was stopped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from typer.testing import CliRunner

from unprompt.cli import app
from unprompt.collecting.compose import compose
from unprompt.errors import RecipeError, TableError
from unprompt.models.decoder.network import DecoderConfig, DecoderModel
from unprompt.models.decoder.runtime import TextDecoder
from unprompt.models.decoder.tokenizer import load_tokenizer, save_tokenizer, train_tokenizer
from unprompt.pairs.prompt_file import write_prompts
from unprompt.pairs.table import load, save
from unprompt.predicting.loading import builtin_folder
from unprompt.predicting.predictor import Predictor
from unprompt.training import train_decoder as module
from unprompt.training.data import prepare
from unprompt.training.recipe import Decoder, load_recipe
from unprompt.training.run import train
from unprompt.training.train_decoder import Blur

TINY = {"vocab_size": 300, "hidden_size": 16, "layers": 1, "heads": 2, "num_beams": 1}


def stand_in(prompts: list[str], *_: object, **__: object) -> np.ndarray:
    """Embeddings of bags of letters: what the encoder is does not matter to a recipe."""
    counts = np.array([[prompt.count(letter) for letter in "abcdefghijkl "] for prompt in prompts])
    return (counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1)).astype("float32")


@pytest.fixture(autouse=True)
def encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    for user in (module, prepare):
        monkeypatch.setattr(user, "encode", stand_in)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "prompts.txt"
    write_prompts([*compose(120, style="caption"), "  a cat  on a mat", "a cat on a mat"], path)
    return path


def recipe_file(texts: Path, folder: Path, **schedule: object) -> Path:
    recipe = {
        "output": str(folder / "run"),
        "data": {"table": str(texts), "val": 0.1, "workers": 0},
        "decoder": TINY,
        "optimiser": {"learning_rate": 1e-2},
        "schedule": {"max_steps": 6, "batch_size": 16, "evaluations": 3, "precision": "fp32"}
        | schedule,
    }
    path = folder / "recipe.yaml"
    OmegaConf.save(OmegaConf.create(recipe), path)
    return path


@pytest.fixture
def finished(texts: Path, tmp_path: Path) -> Path:
    train(load_recipe(recipe_file(texts, tmp_path)))
    return tmp_path / "run"


def test_a_run_leaves_a_model_that_writes_and_its_scores(finished: Path) -> None:
    model = DecoderModel.from_pretrained(finished / "model").eval()
    tokenizer = load_tokenizer(finished / "model")
    assert model.config.vocab_size == tokenizer.get_vocab_size()
    assert model.write(torch.nn.functional.normalize(torch.ones(2, 13), dim=1)).shape[0] == 2
    scores = json.loads((finished / "scores.json").read_text())
    assert set(scores) == {"exact", "blurred"}
    assert set(scores["exact"]) == {"decoder", "bank"}
    logged = [json.loads(line) for line in (finished / "metrics.jsonl").open()]
    losses = [entry["eval_loss"] for entry in logged if "eval_loss" in entry]
    assert len(losses) == 3
    assert losses[-1] < losses[0]


def test_a_finished_run_again_gives_the_same_model(finished: Path) -> None:
    before = DecoderModel.from_pretrained(finished / "model").state_dict()
    train(load_recipe(finished.parent / "recipe.yaml"))
    after = DecoderModel.from_pretrained(finished / "model").state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_stopped_run_goes_on(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    plain = module.DecoderTrainer.training_step

    def failing(self: module.DecoderTrainer, *given: object, **named: object) -> torch.Tensor:
        if len(steps) == 5:
            raise KeyboardInterrupt
        steps.append(self.state.global_step)
        return plain(self, *given, **named)

    monkeypatch.setattr(module.DecoderTrainer, "training_step", failing)
    recipe = load_recipe(recipe_file(texts, tmp_path))
    with pytest.raises(KeyboardInterrupt):
        train(recipe)
    monkeypatch.setattr(module.DecoderTrainer, "training_step", plain)
    kept = (tmp_path / "run" / "pairs.parquet").read_bytes()
    train(recipe)
    assert (tmp_path / "run" / "pairs.parquet").read_bytes() == kept
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert [entry["step"] for entry in logged if "eval_loss" in entry] == [2, 4, 6]


def test_it_is_exported_and_measured_beside_an_embedder(sketches: Path, tmp_path: Path) -> None:
    tokenizer = train_tokenizer(compose(50), 300)
    model = DecoderModel(
        DecoderConfig(vocab_size=300, hidden_size=16, num_hidden_layers=1, num_attention_heads=1)
    )
    model.save_pretrained(tmp_path / "trained")
    save_tokenizer(tokenizer, tmp_path / "trained")
    table = load(sketches).take(range(12))
    table = table.with_columns({"split": ["train", "val"] * 6})
    save(table, tmp_path / "pairs.parquet")
    folder = tmp_path / "model"
    shutil.copytree(builtin_folder(), folder, ignore=shutil.ignore_patterns("decoder"))
    call = ["export", str(tmp_path / "trained"), "-o", str(folder)]
    done = CliRunner().invoke(app, [*call, "--calibrate", str(tmp_path / "pairs.parquet")])
    assert done.exit_code == 0, done.output
    decoder = TextDecoder.of(folder)
    assert decoder is not None
    assert decoder.calibration is not None
    assert decoder.calibration.pairs == 6
    # Random weights write nothing that the bank does not beat.
    assert not decoder.preferred
    assert "the bank answers better" in done.output
    answer = Predictor(folder, route="decode").predict(table.open_image(0))
    assert answer.score is not None


def test_blurred_embeddings_shrink_to_the_mean_and_spread() -> None:
    random = np.random.default_rng(0)
    axes = np.diag([3.0, 1.0, 0.1, 0.1])
    known = random.normal(size=(4000, 4)) @ axes + [2, 0, 0, 0]
    known = (known / np.linalg.norm(known, axis=1, keepdims=True)).astype("float32")
    given = torch.from_numpy(known)
    mean = torch.nn.functional.normalize(given.mean(dim=0), dim=0)

    def moved(**settings: float) -> torch.Tensor:
        drawn = Blur.of(known, Decoder(**settings))(given, torch.Generator().manual_seed(0))
        torch.testing.assert_close(drawn.norm(dim=1), torch.ones(4000))
        return drawn

    assert torch.equal(moved(exact=1), moved(exact=1, noise=0))
    torch.testing.assert_close(moved(exact=1), given)
    torch.testing.assert_close(moved(exact=0, shrinkage=0, noise=0), given)
    shrunk = moved(exact=0, shrinkage=0.9, noise=0)
    assert ((shrunk @ mean) >= (given @ mean) - 1e-5).all()
    shift = moved(exact=0, shrinkage=0, noise=0.5) - given
    # Noise goes where embeddings differ: least along the axes on which they hardly do.
    assert shift[:, :2].norm() > 3 * shift[:, 2:].norm()
    untouched = (moved(exact=0.5, noise=0.5) - given).norm(dim=1) < 1e-5
    assert 0.45 < untouched.float().mean() < 0.55


def test_recipes_that_cannot_be(texts: Path, tmp_path: Path) -> None:
    path = recipe_file(texts, tmp_path)
    with pytest.raises(RecipeError, match=r"decoder\.shrinkage=1\.0 is out of range"):
        load_recipe(path, ["decoder.shrinkage=1.0"])
    with pytest.raises(RecipeError, match=r"decoder\.vocab_size=100 is out of range"):
        load_recipe(path, ["decoder.vocab_size=100"])
    with pytest.raises(RecipeError, match="does not divide"):
        train(load_recipe(path, ["decoder.heads=3"]))
    (tmp_path / "few.txt").write_text("one\ntwo\n")
    with pytest.raises(TableError, match="too few"):
        train(load_recipe(path, [f"data.table={tmp_path / 'few.txt'}"]), fresh=True)


def test_the_recipe_loads() -> None:
    recipe = load_recipe(Path(__file__).parents[2] / "recipes" / "decoder.yaml")
    assert recipe.decoder is not None
    assert recipe.captioner is None

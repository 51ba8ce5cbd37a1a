"""kNN regression with a CLIP, whose two towers are solved to agree on a few images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.models.conftest import tiny_hf_clip, tiny_open_clip
from unprompt.cli import app
from unprompt.encoding import encode
from unprompt.errors import ModelNotFoundError, OutputError, UnpromptError
from unprompt.models.bank.bank import Bank
from unprompt.models.image_towers import create_image_tower
from unprompt.models.text_towers import TextTower, create_text_tower
from unprompt.predicting.build_models import build_knn
from unprompt.predicting.knn_model import KnnModel
from unprompt.predicting.loading import load_model
from unprompt.predicting.predictor import Predictor

from .conftest import picture
from .towers import aligned_clip

PROMPTS = [
    "a red fox in the snow",
    "a castle at dusk, oil painting",
    "a bowl of soup",
    "a robot in a field of flowers",
    "portrait of an old sailor",
    "a city of glass",
]
IMAGES = [picture(seed) for seed in range(len(PROMPTS))]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return aligned_clip(tmp_path_factory.mktemp("hub") / "clip", PROMPTS, IMAGES)


@pytest.fixture(scope="module")
def folder(clip: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's folder, made by the command line."""
    place = tmp_path_factory.mktemp("knn")
    (place / "prompts.txt").write_text("\n".join([*PROMPTS, PROMPTS[0], "", "a dog"]) + "\n")
    call = ["zero-shot", "knn", clip, str(place / "prompts.txt"), "-o", str(place / "knn")]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0, done.output
    assert "7 prompts" in done.output
    return place / "knn"


def pixels_of(model: KnnModel) -> np.ndarray:
    return np.stack([model.preprocessing(image) for image in IMAGES])


def test_the_nearest_prompt_is_the_one_that_clip_gives_the_image(folder: Path) -> None:
    answers = list(Predictor(folder, knn=1).stream(IMAGES))
    assert [answer.prompt for answer in answers] == PROMPTS
    assert {answer.route for answer in answers} == {"embed+bank"}
    found = np.stack([answer.embedding for answer in answers])
    np.testing.assert_allclose(found, encode(PROMPTS), atol=0.02)  # the bank rounds to 8 bits


def test_the_prediction_is_the_weighted_mean_of_the_nearest(folder: Path, clip: str) -> None:
    """A twin in numpy, from the embeddings as they were before the banks rounded them."""
    model = load_model(folder)
    assert isinstance(model, KnnModel)
    model.neighbours, model.temperature = 3, 0.1
    embeddings, features = model.run(pixels_of(model))
    known = [*PROMPTS, "a dog"]
    cosines = features @ create_text_tower(clip).features(known).T
    expected = np.empty_like(embeddings)
    for row, line in enumerate(cosines):
        nearest = np.argsort(-line)[:3]
        weights = np.exp(line[nearest] / 0.1)
        expected[row] = weights @ encode([known[column] for column in nearest])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert (embeddings * expected).sum(axis=1).min() > 0.999
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)


def test_a_batch_is_as_good_as_one_at_a_time(folder: Path) -> None:
    model = load_model(folder)
    pixels = pixels_of(model)
    single = np.concatenate([model.run(one[None])[0] for one in pixels])
    np.testing.assert_allclose(model.run(pixels)[0], single, atol=1e-5)


def test_the_folder_says_how_many_are_averaged(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "knn.json").write_text(json.dumps({"neighbours": 1, "temperature": 0.5}))
    assert Predictor(copy).predict(IMAGES[2]).prompt == PROMPTS[2]
    for text in ("{}", "[]", "{", '{"neighbours": 0, "temperature": 1}'):
        (copy / "knn.json").write_text(text)
        with pytest.raises(UnpromptError, match=r"knn\.json is damaged"):
            load_model(copy)


def test_the_caller_may_choose_how_many_are_averaged(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "knn.json").write_text(json.dumps({"neighbours": 1, "temperature": 1.0}))
    model = load_model(copy)
    assert isinstance(model, KnnModel)
    alone = model.run(pixels_of(model))[0][2]
    model.neighbours = 3
    averaged = model.run(pixels_of(model))[0][2]
    assert alone @ averaged < 0.95
    found = Predictor(copy, knn=3).predict(IMAGES[2]).embedding
    np.testing.assert_allclose(found, averaged, atol=1e-5)


def test_texts_are_encoded_once_ever(
    clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second bank of the same prompts takes their features from the disk."""
    (tmp_path / "old.txt").write_text("\n".join(PROMPTS) + "\n")
    build_knn(tmp_path / "old.txt", tmp_path / "old", clip)
    asked: list[str] = []
    real = TextTower.stream

    def counted(self: TextTower, texts: list[str], batch_size: int = 256):
        asked.extend(texts)
        return real(self, texts, batch_size)

    monkeypatch.setattr(TextTower, "stream", counted)
    (tmp_path / "prompts.txt").write_text("\n".join([*reversed(PROMPTS), "a new one"]) + "\n")
    build_knn(tmp_path / "prompts.txt", tmp_path / "knn", clip)
    assert [text for text in asked if text] == ["a new one"]
    old, new = Bank.load(tmp_path / "old" / "keys"), Bank.load(tmp_path / "knn" / "keys")
    np.testing.assert_array_equal(new.rows[:-1], old.rows[::-1])


def test_an_index_over_the_keys_and_towers_of_open_clip(tmp_path: Path) -> None:
    clip = tiny_open_clip(tmp_path / "clip")
    prompts = [f"{number} {prompt}" for number in range(30) for prompt in PROMPTS]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts) + "\n")
    build_knn(tmp_path / "prompts.txt", tmp_path / "knn", clip, "sq8")
    assert (tmp_path / "knn" / "keys" / "index.faiss").is_file()
    flat = tmp_path / "flat"
    build_knn(tmp_path / "prompts.txt", flat, clip)
    found, expected = load_model(tmp_path / "knn"), load_model(flat)
    pixels = pixels_of(found)
    assert (found.run(pixels)[0] * expected.run(pixels)[0]).sum(axis=1).min() > 0.99


def test_what_cannot_be_built_or_loaded(
    folder: Path, clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "prompts.txt"
    source.write_text("a cat\n")
    with pytest.raises(UnpromptError, match="has no text tower"):
        build_knn(source, tmp_path / "a", "timm/resnet18")
    with pytest.raises(OutputError, match="not empty"):
        build_knn(source, folder, clip)
    assert not (tmp_path / "a").exists()
    copy = shutil.copytree(folder, tmp_path / "copy")
    shutil.rmtree(copy / "keys")
    Bank.build(["a cat"], np.ones((1, 16)), clip).save(tmp_path / "one")
    shutil.copytree(tmp_path / "one" / "bank", copy / "keys")
    with pytest.raises(UnpromptError, match="1 keys but 7 prompts"):
        load_model(copy)
    other = tiny_hf_clip(tmp_path / "other").replace("hf_clip/", "hf/")
    tower, keys = create_image_tower(other), Bank.load(folder / "keys")
    with pytest.raises(UnpromptError, match="gives images 32 numbers, but its texts have 16"):
        KnnModel(tower, keys, Bank.load(folder), "knn", folder)
    with pytest.raises(UnpromptError, match="device 'nowhere' cannot be used"):
        create_image_tower(clip, "nowhere")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFoundError, match="could not be loaded"):
        build_knn(source, tmp_path / "b", "hf_clip/nobody/nothing")

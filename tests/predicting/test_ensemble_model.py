from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from unprompt import write_prompt
from unprompt.errors import ModelNotFoundError, UnpromptError
from unprompt.models.preprocessing import Preprocessing
from unprompt.predicting.ensemble_model import (
    EnsembleModel,
    combine,
    save_ensemble,
    shares_of,
)
from unprompt.predicting.image_batches import embed_images
from unprompt.predicting.loading import load_model
from unprompt.predicting.predictor import Predictor


@pytest.fixture(scope="module")
def builtin():
    return load_model()


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [
        Image.fromarray(random.integers(0, 256, (9, 8, 3), dtype=np.uint8)).resize((300, 200))
        for _ in range(3)
    ]


class Other:
    """The built-in model at another input size: another opinion of the same image."""

    def __init__(self, model, size: int):
        self.name, self.encoder, self.folder = "other", model.encoder, model.folder
        self.preprocessing = Preprocessing(size)
        self._model = model

    def run(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        whole = np.stack(
            [self._model.preprocessing(Image.fromarray(one.transpose(1, 2, 0))) for one in pixels]
        )
        embeddings, features = self._model.run(whole)
        return 3 * embeddings, features  # of another norm


def test_each_model_sees_the_image_in_its_own_way(builtin, pictures):
    other = Other(builtin, 64)
    both = EnsembleModel([builtin, other], [0.25, 0.75])
    openers = [lambda picture=picture: picture for picture in pictures]
    found = np.array([output[0] for output in embed_images(both, openers, 2)])
    alone = [
        np.array([output[0] for output in embed_images(model, openers, 2)])
        for model in (builtin, other)
    ]
    expected = sum(
        weight * rows / np.linalg.norm(rows, axis=1, keepdims=True)
        for weight, rows in zip((0.25, 0.75), alone, strict=True)
    )
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    features = next(embed_images(both, openers))[1]
    assert features.shape == (2 * builtin.run(builtin.preprocessing(pictures[0])[None])[1].size,)


def test_a_surer_model_does_not_outvote_the_others():
    one, other = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    mixed = combine(np.stack([one, 100 * other]), np.array([0.5, 0.5]))
    np.testing.assert_allclose(mixed, [[0.5**0.5, 0.5**0.5]])
    np.testing.assert_allclose(combine(np.stack([0 * one, other]), np.ones(2)), other)


def test_an_ensemble_is_kept_in_a_folder(tmp_path, builtin, pictures):
    save_ensemble(["builtin", "builtin"], np.array([0.5, 0.5]), tmp_path / "both")
    loaded = load_model(tmp_path / "both")
    pixels = loaded.preprocessing(pictures[0])[None]
    alone = builtin.run(builtin.preprocessing(pictures[0])[None])[0]
    np.testing.assert_allclose(loaded.run(pixels)[0], alone / np.linalg.norm(alone), atol=1e-5)
    assert loaded.encoder == builtin.encoder
    answer = Predictor(tmp_path / "both", route="embed").predict(pictures[0])
    assert answer.error is None
    assert answer.prompt == Predictor(route="embed").predict(pictures[0]).prompt


def test_several_models_answer_as_one(tmp_path, builtin, pictures):
    save_ensemble(["builtin", "builtin"], np.array([1, 3]), tmp_path / "both")
    predictor = Predictor(
        ["builtin", tmp_path / "both"], route="embed", top_k=2, weights=[0.2, 0.8]
    )
    answer = predictor.predict(pictures[0])
    alone = Predictor(route="embed", top_k=2).predict(pictures[0])
    assert (answer.route, answer.model) == ("ensemble", f"builtin + {tmp_path / 'both'}")
    assert answer.prompt == alone.prompt
    np.testing.assert_allclose(answer.embedding, alone.embedding, atol=1e-5)
    assert alone.score is not None
    assert answer.score is None, "how far off its answers are was measured for one model alone"
    assert Predictor(["builtin"], route="embed").predict(pictures[0]).route == "embed+bank"


def test_an_ensemble_reads_first_and_writes_no_caption(tmp_path, pictures):
    both = ["builtin", "builtin"]
    write_prompt(pictures[0], tmp_path / "carrier.png", "a red fox")
    assert Predictor(both).predict(tmp_path / "carrier.png").route == "read"
    with pytest.raises(UnpromptError, match="no captioner"):
        Predictor(both, route="caption").predict(pictures[0])
    with pytest.raises(UnpromptError, match="as many weights"):
        Predictor(both, weights=[1.0]).predict(pictures[0])
    with pytest.raises(UnpromptError, match="there is one"):
        Predictor(weights=[1.0]).predict(pictures[0])
    assert shares_of("0.3, 0.7") == [0.3, 0.7]
    with pytest.raises(UnpromptError, match="must be numbers"):
        shares_of("0.3;0.7")


def test_what_cannot_be_an_ensemble(tmp_path, builtin):
    stranger = Other(builtin, 64)
    stranger.encoder = "another/encoder"
    with pytest.raises(UnpromptError, match="must share one target encoder"):
        EnsembleModel([builtin, stranger])
    for weights in ([1], [-1, 2], [0, 0]):
        with pytest.raises(UnpromptError, match="needs as many weights"):
            EnsembleModel([builtin, builtin], weights)
    (tmp_path / "ensemble.json").write_text("{}")
    with pytest.raises(UnpromptError, match="is damaged"):
        load_model(tmp_path)
    save_ensemble([str(tmp_path / "nowhere"), "builtin"], np.ones(2), tmp_path)
    with pytest.raises((ModelNotFoundError, UnpromptError), match="nowhere"):
        load_model(tmp_path)

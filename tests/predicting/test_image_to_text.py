"""Captioners of transformers, small and taught three prompts by heart."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unprompt.encoding import encode
from unprompt.errors import ModelNotFoundError, UnpromptError
from unprompt.predicting.image_to_text import ImageToText, preprocessing_of
from unprompt.predicting.loading import load_model
from unprompt.predicting.predictor import Predictor

from .conftest import picture
from .towers import CAPTIONERS, taught_captioner

PROMPTS = ["a red fox in the snow", "a castle at dusk", "a bowl of soup, oil painting"]
IMAGES = [picture(seed) for seed in range(len(PROMPTS))]


@pytest.fixture(scope="module", params=CAPTIONERS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("hub") / request.param
    return taught_captioner(request.param, place, IMAGES, PROMPTS)


def pixels_of(model: ImageToText) -> np.ndarray:
    return np.stack([model.preprocessing(image) for image in IMAGES])


def test_the_learned_prompts_are_written(folder: str) -> None:
    answers = list(Predictor(folder, top_k=2).stream(IMAGES))
    assert [answer.prompt for answer in answers] == PROMPTS
    for answer in answers:
        assert (answer.route, answer.score, answer.model) == ("caption", None, folder)
        assert all(0 < other.score < 1 for other in answer.alternatives)
        assert answer.embedding is not None
    assert any(answer.alternatives for answer in answers)
    found = np.stack([answer.embedding for answer in answers])
    np.testing.assert_allclose(found, encode(PROMPTS), atol=1e-5)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_scores_are_the_probabilities_of_the_tokens(folder: str, num_beams: int) -> None:
    """As the same model says when it reads the caption in one go, without any search."""
    model = load_model(folder, device="cpu", num_beams=num_beams)
    assert isinstance(model, ImageToText)
    pixels = pixels_of(model)
    network, kind = model.model, model.model.config.model_type
    if kind == "blip-2":
        pytest.skip("it reads its image as tokens, which this twin does not lay out")
    for [caption], image in zip(model.caption(pixels), pixels, strict=True):
        ids = model.tokenizer(caption.text, return_tensors="pt").input_ids
        if kind == "vision-encoder-decoder":
            ids = torch.cat([torch.tensor([[256]]), ids, torch.tensor([[256]])], dim=1)
        values = torch.from_numpy(image)[None] / 255
        mean, std = (
            torch.tensor(numbers)[:, None, None]
            for numbers in (model.preprocessing.mean, model.preprocessing.std)
        )
        inputs = {"pixel_values": (values - mean) / std}
        with torch.no_grad():
            if kind == "blip":
                ids[:, 0] = network.config.text_config.bos_token_id
                states = network.vision_model(**inputs)[0]
                logits = network.text_decoder(ids, encoder_hidden_states=states).logits
            elif kind == "git":
                logits = network(input_ids=ids, **inputs).logits[:, -ids.shape[1] :]
            else:
                logits = network(decoder_input_ids=ids, **inputs).logits
        logs = logits[0, :-1].log_softmax(dim=-1)
        chosen = logs[torch.arange(len(logs)), ids[0, 1:]]
        assert caption.score == pytest.approx(chosen.mean().exp().item(), rel=1e-3)


def test_a_batch_is_as_good_as_one_at_a_time(folder: str) -> None:
    model = load_model(folder, device="cpu")
    assert isinstance(model, ImageToText)
    pixels = pixels_of(model)
    single = [model.caption(one[None], 2)[0] for one in pixels]
    for together, alone in zip(model.caption(pixels, 2), single, strict=True):
        assert [item.text for item in together] == [item.text for item in alone]
        np.testing.assert_allclose(
            [item.score for item in together], [item.score for item in alone], rtol=1e-4
        )


def test_it_samples(folder: str) -> None:
    torch.manual_seed(0)
    predictor = Predictor(folder, top_k=4, top_p=1.0)
    answer = predictor.predict(IMAGES[0])
    scores = [other.score for other in answer.alternatives]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("name", ["BlipImageProcessor", "CLIPImageProcessor", "ViTImageProcessor"])
def test_pixels_are_those_of_the_models_own_processor(name: str) -> None:
    import transformers

    settings = {"size": {"height": 40, "width": 40}}
    if name == "CLIPImageProcessor":
        square = {"height": 40, "width": 40}
        settings = {"size": {"shortest_edge": 50}, "crop_size": square}
    processor = getattr(transformers, name)(**settings)
    preprocessing = preprocessing_of(processor)
    image = picture(3, (320, 200))
    expected = processor(image, return_tensors="np")["pixel_values"][0]
    mean, std = (
        np.array(values)[:, None, None] for values in (preprocessing.mean, preprocessing.std)
    )
    found = (preprocessing(image) / 255 - mean) / std
    assert found.shape == expected.shape
    assert np.abs(found - expected).mean() < 0.02  # of a range of about 4
    assert np.abs(found - expected).max() < 0.2


def test_what_cannot_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import DonutImageProcessor

    with pytest.raises(UnpromptError, match="images of one fixed square size"):
        preprocessing_of(DonutImageProcessor(size={"height": 40, "width": 30}))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFoundError) as told:
        Predictor("Salesforce/blip-image-captioning-base").predict(Image.new("RGB", (9, 9)))
    for part in ("0.99 GB", "BSD-3-Clause", "hf download Salesforce/blip-image-captioning-base"):
        assert part in str(told.value)
    assert "\n" not in str(told.value)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "blip"}))
    with pytest.raises(ModelNotFoundError, match="could not be loaded"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava"}))
    with pytest.raises(UnpromptError, match=r"of type 'llava' .* blip, blip-2, git"):
        load_model(tmp_path)
    for text in ("{}", "{", "[]"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UnpromptError, match=r"config\.json is damaged|of type 'None'"):
            load_model(tmp_path)

"""An interrogator whose CLIP is solved to put a few images where it puts known prompts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.models.conftest import tiny_hf_clip, tiny_open_clip
from unprompt.cli import app
from unprompt.errors import ModelNotFoundError, UnpromptError
from unprompt.models.image_towers import create_image_tower
from unprompt.models.text_towers import TextTower, create_text_tower
from unprompt.predicting import interrogator_model as module
from unprompt.predicting.ensemble_model import save_ensemble
from unprompt.predicting.interrogator_model import Interrogator, InterrogatorConfig
from unprompt.predicting.loading import load_interrogator, load_model
from unprompt.predicting.options import PredictOptions
from unprompt.predicting.phrases import load_phrases
from unprompt.predicting.predictor import Predictor

from .conftest import picture
from .towers import aligned_clip, taught_captioner

SUBJECTS = ["a red fox", "an owl", "a lighthouse", "a robot", "a teapot"]
LISTS = {
    "subject": ["a red fox", "a castle", "an old sailor"],
    "medium": ["oil painting", "pencil sketch", "photograph"],
    "artist": ["by rembrandt", "by claude monet"],
    "flavor": ["golden hour", "highly detailed", "moody", "35mm", "sharp focus"],
}
COMPOSED = [
    "a red fox, oil painting",
    "a castle, by claude monet",
    "an old sailor, golden hour",
    "a castle, pencil sketch",
]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A CLIP for which each picture is one of the subjects."""
    images = [picture(seed) for seed in range(len(SUBJECTS))]
    return aligned_clip(tmp_path_factory.mktemp("hub") / "clip", SUBJECTS, images)


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A CLIP for which each picture is one of the composed prompts."""
    images = [picture(seed) for seed in range(len(COMPOSED))]
    return aligned_clip(tmp_path_factory.mktemp("hub") / "clip", COMPOSED, images)


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phrases")
    for category, phrases in LISTS.items():
        (folder / f"{category}.txt").write_text("\n".join([*phrases, "", phrases[0]]) + "\n")
    return folder


def built(clip: str, lists: Path, **settings: object) -> Interrogator:
    config = InterrogatorConfig(clip, phrases=str(lists), **settings)  # type: ignore[arg-type]
    return load_interrogator(config, "asked", Path("asked"), PredictOptions(device="cpu"))


def pixels_of(model: Interrogator, count: int) -> np.ndarray:
    return np.stack([model.preprocessing(picture(seed)) for seed in range(count)])


def test_a_clip_by_itself_names_the_subject_among_all_that_come_along(plain: str) -> None:
    images = [picture(seed) for seed in range(len(SUBJECTS))]
    answers = list(Predictor(plain, top_k=3).stream(images))
    model = load_model(plain, device="cpu")
    assert isinstance(model, Interrogator)
    pixels = pixels_of(model, len(SUBJECTS))
    features = create_image_tower(plain).features(pixels)
    assert [best for [best] in model.rank(features, "subject")] == SUBJECTS
    for answer, subject in zip(answers, SUBJECTS, strict=True):
        prompts = [answer.prompt, *(other.prompt for other in answer.alternatives)]
        assert any(str(prompt).startswith(f"{subject}, ") for prompt in prompts)
        assert (answer.route, answer.score) == ("interrogate", None)
        assert len(set(prompts)) == 3
        scores = [other.score for other in answer.alternatives]
        assert scores == sorted(scores, reverse=True)
    # The folder of a CLIP, and its route by name, are the same model.
    folder = plain.removeprefix("hf_clip/")
    again = Predictor(folder, route="interrogate", top_k=3).predict(images[1])
    assert again.prompt == answers[1].prompt


def test_fast_takes_the_nearest_of_each_category(composed: str, lists: Path) -> None:
    """A twin in numpy, phrase by phrase."""
    model = built(composed, lists, flavors=2)
    pixels = pixels_of(model, 4)
    images, texts = create_image_tower(composed).features(pixels), create_text_tower(composed)
    for image, [caption] in zip(images, model.caption(pixels), strict=True):
        expected = []
        for category, count in (("subject", 1), ("artist", 1), ("medium", 1), ("flavor", 2)):
            phrases = LISTS[category]
            cosines = [float(image @ texts.features([phrase])[0]) for phrase in phrases]
            expected += [phrases[row] for row in np.argsort(-np.array(cosines))[:count]]
        assert caption.text == ", ".join(expected)
        own = texts.features([caption.text])[0]
        assert caption.score == pytest.approx(float(image @ own), abs=1e-5)
    none = built(composed, lists, flavors=0).caption(pixels)
    assert all(len(caption.text.split(", ")) == 3 for [caption] in none)


def test_best_adds_what_brings_the_whole_prompt_nearer(composed: str, lists: Path) -> None:
    """A twin that tries every phrase at every step, for one image at a time."""
    model = built(composed, lists, mode="best")
    pixels = pixels_of(model, 4)
    images, texts = create_image_tower(composed).features(pixels), create_text_tower(composed)
    category_of = {
        phrase: category
        for category, phrases in LISTS.items()
        for phrase in phrases
        if category != "subject"
    }
    for image, captions in zip(images, model.caption(pixels, 3), strict=True):
        expected = {}
        for subject in LISTS["subject"]:
            prompt, left = subject, dict(category_of)
            cosine = float(image @ texts.features([prompt])[0])
            while left:
                tried = [f"{prompt}, {phrase}" for phrase in left]
                values = [float(image @ texts.features([one])[0]) for one in tried]
                if max(values) <= cosine + 1e-6:
                    break
                best = int(np.argmax(values))
                prompt, cosine = tried[best], values[best]
                taken = [*left][best]
                left = {
                    phrase: of
                    for phrase, of in left.items()
                    if phrase != taken and (of == "flavor" or of != category_of[taken])
                }
            expected[prompt] = cosine
        assert {caption.text for caption in captions} == set(expected)
        for caption in captions:
            assert caption.score == pytest.approx(expected[caption.text], abs=1e-5)


def test_best_finds_the_prompt_that_the_image_is(composed: str, lists: Path) -> None:
    found = [captions[0] for captions in built(composed, lists, mode="best").caption(
        pixels_of(built(composed, lists), 4), 3
    )]  # fmt: skip
    assert [caption.text for caption in found] == COMPOSED
    assert min(caption.score for caption in found) > 0.9999


@pytest.mark.parametrize("mode", ["fast", "best"])
def test_a_batch_is_as_good_as_one_at_a_time(composed: str, lists: Path, mode: str) -> None:
    model = built(composed, lists, mode=mode)
    pixels = pixels_of(model, 4)
    embeddings, features, captions = model.run(pixels)
    for row, one in enumerate(pixels):
        alone = model.run(one[None])
        assert alone[2][0].text == captions[row].text
        np.testing.assert_allclose(alone[0][0], embeddings[row], atol=1e-5)
        np.testing.assert_allclose(alone[1][0], features[row], atol=1e-5)


def test_phrases_are_embedded_once_ever(
    composed: str, lists: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    real = TextTower.stream

    def counted(self: TextTower, texts: list[str], batch_size: int = 256):
        asked.extend(texts)
        return real(self, texts, batch_size)

    built(composed, lists)
    monkeypatch.setattr(TextTower, "stream", counted)
    built(composed, lists)
    assert [text for text in asked if text] == []
    (lists / "extra.txt").write_text("a new phrase\n")
    built(composed, lists)
    (lists / "extra.txt").unlink()
    assert [text for text in asked if text] == ["a new phrase"]


def test_a_captioner_gives_the_subject(composed: str, lists: Path, tmp_path: Path) -> None:
    prompts = ["a small dog", "pencil sketch of a house"]
    images = [picture(seed) for seed in range(2)]
    writer = taught_captioner("vit-gpt2", tmp_path / "writer", images, prompts)
    call = ["zero-shot", "interrogator", composed, "-o", str(tmp_path / "asks")]
    options = ["--captioner", writer, "--phrases", str(lists), "--flavors", "1"]
    done = CliRunner().invoke(app, [*call, *options])
    assert done.exit_code == 0, done.output
    assert "13 phrases in artist, flavor, medium, subject" in done.output
    predictor = Predictor(tmp_path / "asks", top_k=2, num_beams=2)
    answers = list(predictor.stream(images))
    assert {answer.route for answer in answers} == {"interrogate"}
    said = [{answer.prompt, *(other.prompt for other in answer.alternatives)} for answer in answers]
    for prompt, options in zip(prompts, said, strict=True):
        [own] = [option for option in options if str(option).startswith(f"{prompt}, ")]
        assert str(own).count("pencil sketch") <= 1, "said once where the caption says it"
    # Models of models: an ensemble takes it beside an embedder.
    save_ensemble([str(tmp_path / "asks"), "builtin"], np.ones(2), tmp_path / "both")
    both = list(Predictor(tmp_path / "both").stream(images))
    assert [answer.error for answer in both] == [None, None]


def test_what_cannot_interrogate(
    composed: str, lists: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for settings, message in (({"mode": "slow"}, "mode 'slow'"), ({"flavors": -1}, "at least 0")):
        with pytest.raises(UnpromptError, match=message):
            built(composed, lists, **settings)
    with pytest.raises(UnpromptError, match="builtin writes no prompts"):
        built(composed, lists, captioner="builtin")
    (tmp_path / "none").mkdir()
    with pytest.raises(UnpromptError, match="holds no phrases"):
        built(composed, tmp_path / "none")
    (tmp_path / "none" / "medium.txt").write_text("oil painting\n")
    with pytest.raises(UnpromptError, match="nothing gives the subject"):
        built(composed, tmp_path / "none")
    wide = tiny_hf_clip(tmp_path / "clip").replace("hf_clip/", "hf/")
    with pytest.raises(UnpromptError, match="the two cannot be compared"):
        built(wide, lists)
    monkeypatch.setattr(module, "load_phrases", lambda folder: load_phrases(lists))
    for route in ("embed", "decode", "caption"):
        with pytest.raises(UnpromptError, match="use route interrogate"):
            Predictor(composed, route=route).predict(picture(0))
    open_clip = tiny_open_clip(tmp_path / "open")
    assert Predictor(open_clip).predict(picture(0)).route == "interrogate"
    with pytest.raises(UnpromptError, match="is no interrogator; name a CLIP"):
        Predictor("builtin", route="interrogate").predict(picture(0))
    (tmp_path / "interrogator.json").write_text(json.dumps({"clip": composed, "other": 1}))
    with pytest.raises(UnpromptError, match=r"interrogator\.json is damaged"):
        load_model(tmp_path)
    InterrogatorConfig("hf_clip/openai/clip-vit-large-patch14").save(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFoundError, match=r"1\.71 GB \(MIT\).*name it hf_clip/DIR"):
        load_model(tmp_path)


def test_our_own_phrases_read_as_in_a_prompt() -> None:
    phrases = load_phrases()
    assert list(phrases) == ["subject", "medium", "artist", "movement", "flavor"]
    everything = [phrase for of in phrases.values() for phrase in of]
    assert not [phrase for phrase in everything if set("~{}[]*,") & set(phrase)]
    assert {"an owl", "sushi"} <= set(phrases["subject"])
    assert "by claude monet" in phrases["artist"]
    assert "oil painting" in phrases["medium"]
    for of in phrases.values():
        assert len(of) == len(set(of)) > 50

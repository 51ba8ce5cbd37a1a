"""Every zero-shot route through the command line: made, predicted with, and evaluated."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from unprompt.cli import app
from unprompt.collecting.compose import compose
from unprompt.encoding import encode
from unprompt.models.embedder import Embedder
from unprompt.models.text_towers import create_text_tower
from unprompt.predicting.loading import load_model
from unprompt.predicting.predictor import Predictor
from unprompt.predicting.public_weights import PUBLIC

from .conftest import picture
from .towers import aligned_clip, taught_captioner

COUNT = 12
PROMPTS = list(compose(COUNT, seed=3, style="sketch"))
IMAGES = [picture(seed) for seed in range(COUNT)]
LISTS = {"subject": PROMPTS, "medium": ["oil painting", "photo"], "flavor": ["moody", "35mm"]}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return aligned_clip(tmp_path_factory.mktemp("hub") / "clip", PROMPTS, IMAGES)


@pytest.fixture(scope="module")
def competition(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kaggle")
    (folder / "images").mkdir()
    with (folder / "prompts.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("imgId", "prompt"))
        for number, (prompt, image) in enumerate(zip(PROMPTS, IMAGES, strict=True)):
            writer.writerow((f"image{number:02}", prompt))
            image.save(folder / "images" / f"image{number:02}.png")
    return folder


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, [*map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.stdout


def made(route: str, clip: str, folder: Path) -> tuple[str, str]:
    """A model by its route's own command, and the route that its answers state."""
    texts = [*PROMPTS, *compose(60, seed=8, style="sketch")]
    (folder / "prompts.txt").write_text("\n".join(texts) + "\n")
    output = folder / route
    if route == "knn":
        run("zero-shot", "knn", clip, folder / "prompts.txt", "-o", output)
        return str(output), "embed+bank"
    if route == "text head":
        run("zero-shot", "head", clip, folder / "prompts.txt", "-o", output)
        return str(output), "embed+bank"
    if route == "interrogator":
        for name, phrases in LISTS.items():
            (folder / "phrases").mkdir(exist_ok=True)
            (folder / "phrases" / f"{name}.txt").write_text("\n".join(phrases) + "\n")
        options = ("--flavors", 1, "--phrases", folder / "phrases")
        run("zero-shot", "interrogator", clip, "-o", output, *options)
        return str(output), "interrogate"
    return taught_captioner("git", output, IMAGES, PROMPTS), "caption"


@pytest.mark.parametrize("route", ["knn", "text head", "interrogator", "captioner"])
def test_a_route_is_made_predicted_with_and_evaluated(
    route: str, clip: str, competition: Path, tmp_path: Path
) -> None:
    model, stated = made(route, clip, tmp_path)
    lines = run("predict", competition / "images", "--model", model, "--format", "json")
    answers = [json.loads(line) for line in lines.splitlines()]
    assert {answer["route"] for answer in answers} == {stated}
    assert {answer["error"] for answer in answers} == {None}
    again = Predictor(model).predict(competition / "images" / "image00.png")
    assert again.prompt == answers[0]["prompt"]
    scores = run("evaluate", model, "--kaggle", competition, "--format", "json", "--no-text-scores")
    measured = json.loads(scores)["model"]
    assert measured["pairs"] == COUNT
    # What is measured is what the model predicts, whose towers agree on these images.
    loaded = load_model(model, device="cpu")
    pixels = np.stack([loaded.preprocessing(image) for image in IMAGES])
    predicted = loaded.run(pixels)[0]
    true = encode(PROMPTS, precision="fp32")
    cosines = (predicted * true).sum(axis=1) / np.linalg.norm(predicted, axis=1)
    assert measured["cosine"] == pytest.approx(cosines.mean(), abs=2e-3)
    if route == "text head":
        # The image tower puts the images where the head's own texts were.
        texts = torch.from_numpy(create_text_tower(clip).features(PROMPTS))
        with torch.no_grad():
            expected = Embedder.from_pretrained(model).embed(texts).numpy()
        np.testing.assert_allclose(predicted, expected, atol=0.01)
    elif route == "interrogator":
        prompts = [answer["prompt"].split(", ")[:-2] for answer in answers]
        assert [", ".join(parts) for parts in prompts] == PROMPTS
    else:
        mean = true.mean(axis=0)
        assert cosines.mean() > (true @ mean).mean() / np.linalg.norm(mean)


def test_the_page_states_what_the_table_of_public_weights_does() -> None:
    page = (Path(__file__).parents[2] / "docs" / "zero_shot.md").read_text("utf-8")
    for model in PUBLIC:
        row = next(line for line in page.splitlines() if line.startswith(f"| `{model.repository}`"))
        for part in (f"{model.gigabytes} GB", model.licence, model.names[0]):
            assert part in row, model.repository

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from unprompt.cli import app
from unprompt.errors import UnpromptError
from unprompt.evaluating.evaluation import evaluate
from unprompt.models.embedder import Embedder
from unprompt.predicting.embedding_model import TorchModel
from unprompt.predicting.loading import load_model
from unprompt.training.head.linear_probe import fit_linear_probe
from unprompt.training.merge_weights import (
    SHARES,
    average,
    best_interpolation,
    greedy_average,
    score,
)
from unprompt.training.train_embedder import build


@pytest.fixture
def models(recipe, pairs, tmp_path: Path) -> list[Path]:
    """A fitted model, the same with some noise, and the same with so much that it knows nothing."""
    torch.manual_seed(0)
    model = build(recipe, pairs.embeddings.shape[1])
    fit_linear_probe(model, pairs.of_split("train"), pairs.of_split("val"))
    folders = []
    for name, noise in (("fitted", 0.0), ("near", 0.02), ("far", 3.0)):
        with torch.no_grad():
            for parameter in model.head.parameters():
                parameter.add_(noise * torch.randn_like(parameter))
        model.save_pretrained(tmp_path / name)
        folders.append(tmp_path / name)
    return folders


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return Embedder.from_pretrained(folder).state_dict()


def test_the_average_is_of_every_weight(models):
    soup = average(models[:2], [1, 3])
    assert soup.weights == [0.25, 0.75]
    one, other = (weights_of(folder) for folder in models[:2])
    for name, value in soup.model.state_dict().items():
        expected = (
            one[name] if not value.is_floating_point() else one[name] / 4 + other[name] * 0.75
        )
        torch.testing.assert_close(value, expected)
    alone = average(models, [0, 1, 0]).model.state_dict()
    assert all(torch.equal(alone[name], value) for name, value in other.items())
    third = average(models[:2]).weights
    assert third == [0.5, 0.5]


def test_the_score_is_that_of_evaluate(models, pairs):
    val = pairs.of_split("val")
    expected = evaluate(load_model(models[0]), val, None).model.overall
    found = score(Embedder.from_pretrained(models[0]), val)
    assert found.mean == pytest.approx(expected.mean, abs=1e-6)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_a_greedy_soup_leaves_out_what_harms_it(models, pairs):
    made = greedy_average([models[2], models[0], models[1]], pairs)
    assert made.weights[0] == 0
    singles = [score_ for _, score_ in made.tried[:3]]
    assert made.score.mean >= max(single.mean for single in singles)
    assert len(made.tried) == 5
    expected = evaluate(TorchModel(made.model, "soup", Path()), pairs, "val").model.overall.mean
    assert made.score.mean == pytest.approx(expected, abs=1e-6)


def test_interpolation_finds_the_best_point_between_two(models, pairs):
    made = best_interpolation(models[0], models[2], pairs)
    assert [weights[1] for weights, _ in made.tried] == list(SHARES)
    means = [score_.mean for _, score_ in made.tried]
    assert made.score.mean == max(means)
    assert means[0] == pytest.approx(
        score(Embedder.from_pretrained(models[0]), pairs.of_split("val")).mean
    )
    assert made.weights[1] == SHARES[int(np.argmax(means))]


def test_models_that_cannot_be_averaged(models, recipe, pairs, tmp_path):
    with pytest.raises(UnpromptError, match="2 weights for 3 models"):
        average(models, [1, 2])
    with pytest.raises(UnpromptError, match="a sum above 0"):
        average(models, [0, 0, 0])
    recipe.model.head.type, recipe.model.head.hidden = "mlp", 8
    build(recipe, pairs.embeddings.shape[1]).save_pretrained(tmp_path / "wide")
    with pytest.raises(UnpromptError, match=r"wide has another architecture than .*fitted"):
        average([models[0], tmp_path / "wide"])
    recipe.model.head.type, recipe.model.size = "linear", 64
    build(recipe, pairs.embeddings.shape[1]).save_pretrained(tmp_path / "large")
    with pytest.raises(UnpromptError, match=r"large and .* have different preprocessing"):
        average([models[0], tmp_path / "large"])


def test_the_command(models, pairs, tmp_path):
    command = ["merge", "weights", *map(str, models[:2]), "-o", str(tmp_path / "average")]
    done = CliRunner().invoke(app, [*command, "--greedy", pairs.name])
    assert done.exit_code == 0
    assert " on val" in done.stderr
    assert f"of {models[0]}" in done.stdout
    assert Embedder.from_pretrained(tmp_path / "average").architecture
    refused = CliRunner().invoke(app, [*command, "--weights", "1,2", "--greedy", pairs.name])
    assert "exclude one another" in str(refused.exception)
    refused = CliRunner().invoke(app, [*command, "--weights", "1,x"])
    assert "must be numbers" in str(refused.exception)

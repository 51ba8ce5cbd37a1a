from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from unprompt.errors import RecipeError
from unprompt.models.embedder import Embedder
from unprompt.training.lr_finder import HIGHEST, LOWEST, RateSearch, find_learning_rate
from unprompt.training.run import train


def test_the_loss_falls_and_climbs_and_the_suggestion_lies_below(recipe):
    recipe.optimiser.ema = 0.9
    recipe.optimiser.head_learning_rate = 0.1
    found = find_learning_rate(recipe, steps=40)
    assert not Path(recipe.output).exists()
    assert found.factors[0] == LOWEST
    assert found.factors == sorted(found.factors)
    assert min(found.losses) < found.losses[0] - 0.05
    best = found.factors[found.losses.index(min(found.losses))]
    assert LOWEST < found.factor == best / 10 < HIGHEST / 10
    assert find_learning_rate(recipe, steps=40) == found


def test_the_suggestion_is_stated_as_overrides_and_drawn(tmp_path):
    found = RateSearch([0.01, 0.1, 1.0, 10.0], [0.9, 0.8, 0.5, 0.7], 3e-5, 1e-3)
    assert str(found) == "optimiser.learning_rate=3.0e-06 optimiser.head_learning_rate=1.0e-04"
    found.plot(tmp_path / "run" / "curve.png")
    with Image.open(tmp_path / "run" / "curve.png") as image:
        assert image.format == "PNG"
        assert image.width > 300


def test_the_search_does_not_change_the_run(recipe):
    recipe.schedule.max_steps = 2
    before = Embedder.from_pretrained(train(recipe).model).state_dict()
    find_learning_rate(recipe, steps=3)
    after = Embedder.from_pretrained(train(recipe, fresh=True).model).state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("key", ["learning_rate", "head_learning_rate"])
def test_a_rate_of_zero_has_no_multiples(recipe, key):
    setattr(recipe.optimiser, key, 0.0)
    with pytest.raises(RecipeError, match="a learning rate of 0"):
        find_learning_rate(recipe)

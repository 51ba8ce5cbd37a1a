from pathlib import Path

import numpy as np
import pytest

from unprompt.collecting.compose import compose
from unprompt.collecting.prompts.diversity import measure_diversity, to_text
from unprompt.encoding import encode
from unprompt.errors import UnpromptError
from unprompt.pairs.prompt_file import prompts_of


def test_figures_are_those_counted_by_hand() -> None:
    prompts = ["a red cat", "A red dog!", "a red cat runs"]
    found = measure_diversity(prompts, "three")
    assert found.prompts == 3
    assert found.words == pytest.approx(10 / 3)
    assert found.vocabulary == 5
    assert found.distinct == pytest.approx((5 / 10, 4 / 7, 3 / 4))
    embeddings = encode(prompts)
    cosine = embeddings @ embeddings.T
    np.fill_diagonal(cosine, -1)
    assert found.nearest == pytest.approx(cosine.max(1).mean(), abs=1e-6)


def test_repetition_is_seen() -> None:
    same = measure_diversity(["a red cat"] * 50)
    other = measure_diversity(list(compose(50)))
    assert same.nearest > 0.999 > other.nearest
    assert same.distinct[0] < 0.05 < other.distinct[0]


def test_too_few_prompts() -> None:
    with pytest.raises(UnpromptError, match="two prompts or more"):
        measure_diversity(["one"])


def test_a_sample_is_drawn() -> None:
    prompts = list(compose(300))
    assert measure_diversity(prompts, sample=40).prompts == 40
    assert measure_diversity(prompts, sample=40) == measure_diversity(prompts, sample=40)


def test_composed_prompts_are_as_diverse_as_those_of_people(shared: Path) -> None:
    people = prompts_of(shared / "prompts" / "imagereward_refl_diffusiondb.txt")
    theirs = measure_diversity(people, "people", sample=400)
    ours = measure_diversity(list(compose(2000)), "ours", sample=400)
    assert ours.nearest < theirs.nearest + 0.05
    assert "people" in to_text([ours, theirs]).splitlines()[2]

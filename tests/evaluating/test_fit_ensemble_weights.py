from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.evaluating.conftest import COUNT
from unprompt.errors import TableError
from unprompt.evaluating.evaluation import evaluate
from unprompt.evaluating.fit_ensemble_weights import fit_ensemble_weights
from unprompt.evaluating.metrics import cosines
from unprompt.predicting.ensemble_model import combine
from unprompt.predicting.loading import load_model


def noisy(evaluation, noise: float, seed: int):
    """A model that is wrong by so much, and sure of itself by so much."""
    random = np.random.default_rng(seed)
    wrong = evaluation.true + noise * random.normal(size=evaluation.true.shape) / 20
    return replace(evaluation, predicted=(seed + 1) * wrong.astype(np.float32))


def score(evaluations, weights) -> float:
    predictions = np.stack([one.predicted for one in evaluations])
    return float(cosines(combine(predictions, weights), evaluations[0].true).mean())


def test_the_weights_are_those_of_a_grid(model, table):
    measured = evaluate(model, table, None)
    models = [noisy(measured, 1.0, 0), noisy(measured, 2.0, 1)]
    weights = fit_ensemble_weights(models)
    assert weights.sum() == pytest.approx(1)
    grid = np.linspace(0, 1, 201)
    best = max(grid, key=lambda share: score(models, np.array([share, 1 - share])))
    assert weights[0] == pytest.approx(best, abs=0.02)
    assert weights[0] > 0.6
    assert score(models, weights) > max(score(models, np.eye(2)[k]) for k in range(2))


def test_a_model_of_noise_counts_for_nothing(model, table):
    measured = evaluate(model, table, None)
    good, noise = noisy(measured, 0.5, 0), noisy(measured, 1000.0, 1)
    assert fit_ensemble_weights([good, noise])[1] < 0.02


def test_models_of_other_pairs_are_refused(model, table):
    with pytest.raises(TableError, match="not measured on the same pairs"):
        fit_ensemble_weights([evaluate(model, table, "val"), evaluate(model, table, "test")])


def test_the_verb_fits_and_the_folder_is_a_model(call, tmp_path, model_folder, table_file):
    folder = tmp_path / "both"
    models = ("merge", "answers", model_folder, model_folder)
    code, out, err = call(*models, "--fit", table_file, "-o", folder)
    assert (code, err) == (0, "")
    assert out.count("0.500 of ") == 2
    found = evaluate(load_model(folder, device="cpu"), load_table(table_file), "val")
    alone = evaluate(load_model(model_folder, device="cpu"), load_table(table_file), "val")
    np.testing.assert_allclose(found.model.values, alone.model.values, atol=1e-5)
    assert found.model.overall.count == COUNT["val"]
    code, _, err = call("merge", "answers", model_folder, "-o", folder)
    assert code == 2
    assert "two models or more" in err


def load_table(path):
    from unprompt.pairs.table import load

    return load(path)

from __future__ import annotations

import numpy as np
import pytest

from tests.evaluating.conftest import DIM, drawn
from unprompt.errors import TableError
from unprompt.evaluating.calibration import calibrate
from unprompt.evaluating.evaluation import evaluate
from unprompt.evaluating.metrics import cosines
from unprompt.models.bank import Bank


def test_the_line_is_the_least_squares_one(model, table):
    evaluation = evaluate(model, table, None)
    bank = Bank.build([f"known {row}" for row in range(30)], drawn(30, DIM, 7), model.encoder)
    calibrated, answered = calibrate(bank, evaluation)
    asked, true = [], []
    for predicted, truth in zip(evaluation.predicted, evaluation.true, strict=True):
        best = bank.search(predicted[None])[0][0]
        row = list(bank.prompts).index(best.prompt)
        asked.append(best.cosine)
        true.append(cosines(bank.rows[[row]].astype(np.float32), truth[None])[0])
    np.testing.assert_allclose(answered, true, atol=1e-9)
    slope, intercept = np.polyfit(asked, true, 1)
    line = calibrated.calibration
    assert line is not None
    assert line.slope == pytest.approx(slope, abs=1e-3)
    assert line.intercept == pytest.approx(intercept, abs=1e-3)
    residuals = intercept + slope * np.array(asked) - true
    assert line.error == pytest.approx(np.sqrt(np.mean(residuals**2)), abs=1e-4)
    assert line.pairs == len(table)
    assert bank.calibration is None


def test_two_pairs_make_no_line(model, table):
    evaluation = evaluate(model, table.take([0, 1]), None)
    bank = Bank.build(["known"], drawn(1, DIM), model.encoder)
    with pytest.raises(TableError, match="2 pairs are too few to calibrate"):
        calibrate(bank, evaluation)

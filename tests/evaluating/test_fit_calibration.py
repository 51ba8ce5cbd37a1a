from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from tests.evaluating.conftest import DIM, drawn
from unprompt.errors import ModelNotFoundError, TableError
from unprompt.evaluating.evaluation import evaluate
from unprompt.evaluating.fit_calibration import calibrate, calibrate_bank, fit_calibration
from unprompt.evaluating.metrics import cosines, reliability
from unprompt.models.bank.bank import Bank
from unprompt.predicting.ensemble_model import save_ensemble
from unprompt.predicting.loading import builtin_folder
from unprompt.predicting.predictor import Predictor


def answers(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Signs, and cosines that are all alike up to a sign of 0.6, and rise steeply above."""
    random = np.random.default_rng(seed)
    signs = random.normal(0.5, 0.2, count)
    truth = 0.4 + 1.5 * np.maximum(signs - 0.6, 0)
    return signs, truth + random.normal(0, 0.15, count)


def test_every_bin_of_other_answers_is_right():
    """A straight line, for one, says 0.25 of the lowest answers, whose cosine is 0.4."""
    curve = fit_calibration(*answers(400, 0))
    signs, true = answers(4000, 1)
    bins = reliability(np.array([curve(sign) for sign in signs]), true)
    assert max(abs(part.estimated - part.actual) for part in bins) < 0.05
    assert min(part.estimated for part in bins) > 0.35
    assert max(part.estimated for part in bins) > 0.5
    assert curve.error == pytest.approx(0.15, abs=0.02)
    assert curve.pairs == 400


def test_signs_that_tell_nothing_give_all_answers_the_mean():
    random = np.random.default_rng(3)
    answered = random.normal(0.4, 0.15, 400)
    curve = fit_calibration(random.normal(size=400), answered)
    assert curve.expected[-1] - curve.expected[0] < 0.04
    assert curve(0) == pytest.approx(answered.mean(), abs=0.02)
    falling = fit_calibration(-answered, answered)
    assert set(falling.expected) == {round(float(answered.mean()), 4)}


def test_few_answers_say_no_more_than_their_mean():
    curve = fit_calibration(np.arange(8.0), np.linspace(0.1, 0.5, 8))
    assert curve.expected == (0.3,)


def test_equal_signs_make_one_knot():
    curve = fit_calibration(np.ones(90), np.linspace(0, 0.6, 90))
    assert curve.inputs == (1.0,)
    assert curve(5) == curve(1) == pytest.approx(curve.expected[0])


def test_a_bank_is_measured_by_what_it_answers(model, table):
    evaluation = evaluate(model, table, None)
    bank = Bank.build([f"known {row}" for row in range(30)], drawn(30, DIM, 7), model.encoder)
    curve, answered = calibrate_bank(bank, evaluation)
    rows, signs = bank.answers(evaluation.predicted)
    true = cosines(bank.embeddings(rows[:, 0]), evaluation.true)
    np.testing.assert_allclose(answered, true, atol=1e-9)
    assert curve == fit_calibration(signs[:, 0], true)
    assert curve.pairs == len(table)


def test_two_pairs_are_too_few(model, table):
    evaluation = evaluate(model, table.take([0, 1]), None)
    bank = Bank.build(["known"], drawn(1, DIM), model.encoder)
    with pytest.raises(TableError, match="2 pairs are too few to calibrate"):
        calibrate_bank(bank, evaluation)


def test_a_folder_keeps_what_its_scores_are_worth(tmp_path, model_folder, table_file, call):
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    before = {file.name: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert Predictor(folder, device="cpu").answer(drawn(1)[0]).score is None
    code, _, err = call("calibrate", folder, table_file, "--split", "train")
    assert (code, "on 24 held-out pairs" in err) == (0, True)
    after = {file.name: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert {name for name in after if after[name] != before.get(name)} == {"bank.json"}
    calibration = json.loads(after["bank.json"])["calibration"]
    answer = Predictor(folder, device="cpu").answer(drawn(1)[0])
    assert [answer.score] == calibration["expected"]


def test_a_copy_is_calibrated_and_the_model_stays(tmp_path, model_folder, table_file, call):
    before = {file.name: file.read_bytes() for file in model_folder.rglob("*") if file.is_file()}
    copy = tmp_path / "copy"
    code, _, err = call("calibrate", model_folder, table_file, "-o", copy, "--split", "train")
    assert code == 0, err
    after = {file.name: file.read_bytes() for file in model_folder.rglob("*") if file.is_file()}
    assert after == before
    assert Bank.load(copy).calibration is not None
    assert Predictor(copy, device="cpu").answer(drawn(1)[0]).score is not None
    code, _, err = call("calibrate", model_folder, table_file, "-o", copy)
    assert (code, "not empty" in err) == (2, True)


@pytest.mark.parametrize("name", ["builtin", builtin_folder()])
def test_the_installed_model_is_never_written(name, table_file, call):
    before = {file: file.stat().st_mtime_ns for file in builtin_folder().rglob("*")}
    code, _, err = call("calibrate", name, table_file, "--split", "all")
    assert code == 2
    assert "name a folder for a calibrated copy: -o DIR" in err
    assert {file: file.stat().st_mtime_ns for file in builtin_folder().rglob("*")} == before


def test_an_ensemble_gets_a_bank_of_its_own(tmp_path, model_folder, table):
    save_ensemble([str(model_folder)] * 2, np.ones(2), tmp_path / "both")
    made = calibrate(tmp_path / "both", table, "train", "cpu")
    assert made.decoder is None
    bank = Bank.load(tmp_path / "both")
    assert bank.calibration == made.bank
    assert made.bank.pairs == 24
    answer = Predictor(tmp_path / "both", device="cpu").answer(drawn(1)[0])
    assert (answer.route, answer.score is None) == ("ensemble", False)


def test_what_stands_in_no_folder_is_refused(tmp_path, table):
    with pytest.raises(ModelNotFoundError, match="is not a folder"):
        calibrate(tmp_path / "none", table)

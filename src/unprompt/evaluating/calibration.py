"""How far a bank's answer is from the truth, estimated on held-out pairs."""

from __future__ import annotations

import numpy as np

from unprompt.errors import TableError
from unprompt.evaluating.evaluation import Evaluation
from unprompt.evaluating.metrics import cosines
from unprompt.models.bank import Bank, Calibration


def calibrate(bank: Bank, evaluation: Evaluation) -> tuple[Bank, np.ndarray]:
    """Fit the bank's `Calibration`: a least-squares line from cosine to expected cosine.

    Args:
        bank: what the model answers from.
        evaluation: the model's predictions on held-out pairs.

    Returns:
        The calibrated bank, and for each pair the cosine between the answer's prompt embedding
        and the true one, float64 of shape (n,): what the text of the answers is worth.

    Raises:
        TableError: fewer than three pairs, too few for a line.
    """
    true = evaluation.true
    if len(true) < 3:
        raise TableError(f"{evaluation.table}: {len(true)} pairs are too few to calibrate a bank")
    rows, asked = bank.nearest(evaluation.predicted, 1)
    answered = cosines(bank.rows[rows[:, 0]].astype(np.float32), true)
    design = np.stack([np.ones(len(true)), asked[:, 0]], axis=1)
    line = np.linalg.lstsq(design, answered, rcond=None)[0]
    error = float(np.sqrt(np.mean((design @ line - answered) ** 2)))
    calibration = Calibration(
        round(float(line[0]), 4), round(float(line[1]), 4), len(true), round(error, 4)
    )
    return bank.calibrated(calibration), answered

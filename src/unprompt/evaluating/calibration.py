"""How far a bank's answer is from the truth, estimated on held-out pairs."""

from __future__ import annotations

import numpy as np

from unprompt.encoding import encode
from unprompt.errors import TableError
from unprompt.evaluating.evaluation import Evaluation
from unprompt.evaluating.metrics import cosines
from unprompt.models.bank import Bank, Calibration
from unprompt.predicting.decoder import BEAMS, TextDecoder


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
    return bank.calibrated(_fitted(asked[:, 0], answered)), answered


def calibrate_decoder(
    decoder: TextDecoder, evaluation: Evaluation, beams: int = BEAMS
) -> tuple[Calibration, np.ndarray]:
    """The same line for a decoder, from the score of a text to its expected cosine.

    Args:
        decoder: writes the answers.
        evaluation: the model's predictions on held-out pairs.
        beams: of its search.

    Returns:
        The line, and for each pair the cosine between the written text and the true prompt,
        float64 of shape (n,).

    Raises:
        TableError: fewer than three pairs, too few for a line.
    """
    if len(evaluation.true) < 3:
        raise TableError(
            f"{evaluation.table}: {len(evaluation.true)} pairs are too few to calibrate a decoder"
        )
    texts = [best for best, *_ in decoder.write(evaluation.predicted, beams=beams)]
    written = encode([text.prompt for text in texts], decoder.encoder, precision="fp32")
    answered = cosines(written, evaluation.true)
    return _fitted(np.array([text.score for text in texts]), answered), answered


def _fitted(asked: np.ndarray, answered: np.ndarray) -> Calibration:
    """The least-squares line from one to the other, both (n,)."""
    design = np.stack([np.ones(len(asked)), asked], axis=1)
    line = np.linalg.lstsq(design, answered, rcond=None)[0]
    error = float(np.sqrt(np.mean((design @ line - answered) ** 2)))
    return Calibration(
        round(float(line[0]), 4), round(float(line[1]), 4), len(asked), round(error, 4)
    )

"""How far a model's answers are from the truth, estimated on held-out pairs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unprompt.encoding import encode
from unprompt.errors import ModelNotFoundError, TableError, UnpromptError
from unprompt.evaluating.evaluation import Evaluation, evaluate
from unprompt.evaluating.metrics import cosines
from unprompt.models.bank.bank import BANK_FOLDER, Bank
from unprompt.models.calibration import Calibration
from unprompt.models.decoder.runtime import BEAMS, TextDecoder, save_calibration
from unprompt.pairs.table import PairsTable
from unprompt.predicting.captioner_model import Captioner
from unprompt.predicting.embedding_model import BUILTIN, EmbeddingModel, builtin_folder, load_model
from unprompt.predicting.text_sources import bank_for

_LEAST = 30
"""Pairs behind each knot of a calibration, so that its mean is known to about 0.03."""


def calibrate(bank: Bank, evaluation: Evaluation) -> tuple[Calibration, np.ndarray]:
    """What a bank's answers are worth, from the CSLS of an answer to its expected cosine.

    Args:
        bank: what the model answers from.
        evaluation: the model's predictions on held-out pairs.

    Returns:
        The calibration, and for each pair the cosine between the answer's prompt embedding and the
        true one, float64 of shape (n,): what the text of the answers is worth.

    Raises:
        TableError: fewer than three pairs, too few to say anything.
    """
    _enough(evaluation, "bank")
    rows, signs = bank.answers(evaluation.predicted)
    answered = cosines(bank.embeddings(rows[:, 0]), evaluation.true)
    return fit_calibration(signs[:, 0], answered), answered


def calibrate_decoder(
    decoder: TextDecoder, evaluation: Evaluation, beams: int = BEAMS
) -> tuple[Calibration, np.ndarray]:
    """The same for a decoder, from the score of a text to its expected cosine.

    Args:
        decoder: writes the answers.
        evaluation: the model's predictions on held-out pairs.
        beams: of its search.

    Returns:
        The calibration, and for each pair the cosine between the written text and the true prompt,
        float64 of shape (n,).

    Raises:
        TableError: fewer than three pairs, too few to say anything.
    """
    _enough(evaluation, "decoder")
    texts = [best for best, *_ in decoder.write(evaluation.predicted, beams=beams)]
    written = encode([text.prompt for text in texts], decoder.encoder, precision="fp32")
    answered = cosines(written, evaluation.true)
    return fit_calibration(np.array([text.score for text in texts]), answered), answered


@dataclass(frozen=True)
class Calibrated:
    """What `calibrate_folder` measured.

    Attributes:
        bank: calibration of the bank's answers.
        decoder: of the decoder's, where one stands in the folder.
        decoder_preferred: the decoder's texts are nearer to the true prompts than the bank's.
    """

    bank: Calibration
    decoder: Calibration | None = None
    decoder_preferred: bool = False


def calibrate_folder(
    folder: str | Path,
    table: PairsTable,
    split: str | None = "val",
    device: str | None = None,
    model: EmbeddingModel | None = None,
) -> Calibrated:
    """Measure the answers of a model's folder and keep in it how far its scores can be trusted.

    A model that borrows the built-in bank, or that of one of its models, gets a copy of it.

    Args:
        folder: of an embedder as it is trained or exported, of an ensemble, or of a CLIP with its
            bank.
        table: held-out pairs, which the model has not learned from.
        split: of the table; None takes all of it.
        device: for models that run on torch.
        model: of that folder, where it is loaded already.

    Raises:
        ModelNotFoundError: there is no such folder.
        TableError: there are no such pairs, or too few.
        UnpromptError: the model writes its prompts itself.
        OutputError: the folder cannot be written.
    """
    folder = builtin_folder() if str(folder) == BUILTIN else Path(folder)
    if not folder.is_dir():
        raise ModelNotFoundError(f"{folder} is no folder; calibrate a model that stands in one")
    model = model or load_model(folder, device)
    if isinstance(model, Captioner):
        raise UnpromptError(f"model {folder} writes prompts and estimates no cosine of them")
    evaluation = evaluate(model, table, split)
    bank = bank_for(model)
    of_bank, banked = calibrate(bank, evaluation)
    bank = bank.calibrated(of_bank)
    if (folder / BANK_FOLDER).is_dir():
        bank.save_head(folder)
    else:
        bank.save(folder)
    if (decoder := TextDecoder.of(folder)) is None:
        return Calibrated(of_bank)
    of_decoder, written = calibrate_decoder(decoder, evaluation)
    preferred = bool(written.mean() > banked.mean())
    save_calibration(decoder.folder, of_decoder, preferred)
    return Calibrated(of_bank, of_decoder, preferred)


def fit_calibration(signs: np.ndarray, answered: np.ndarray) -> Calibration:
    """The rising curve from signs of good answers to the cosines that they turned out to have.

    Isotonic regression (Zadrozny and Elkan 2002) of means over bins of equal counts: single pairs
    would put a step wherever one of them was lucky, above all at the ends. Each mean is first
    drawn towards the mean of all by as much as chance explains of how far it is away, as
    Efron and Morris (1975) do; where the signs tell nothing, all answers get the mean.

    Args:
        signs: see `Calibration`, shape (n,), n > 0.
        answered: cosines to the truth, likewise.
    """
    from scipy.optimize import isotonic_regression

    bins = np.array_split(np.argsort(signs, kind="stable"), max(1, len(signs) // _LEAST))
    counts = np.array([len(rows) for rows in bins])
    means = np.array([answered[rows].mean() for rows in bins])
    if len(bins) > 1:
        chance = np.array([answered[rows].var(ddof=1) for rows in bins]) / counts
        real = max(0.0, means.var(ddof=1) - chance.mean())
        overall = answered.mean()
        means = overall + (means - overall) * real / np.maximum(real + chance, 1e-12)
    expected = isotonic_regression(means, weights=counts).x.clip(-1, 1)
    places, first = np.unique(
        [round(float(signs[rows].mean()), 4) for rows in bins], return_index=True
    )
    values = [round(float(value), 4) for value in expected[first]]
    error = float(np.sqrt(np.mean((np.interp(signs, places, values) - answered) ** 2)))
    return Calibration(tuple(places.tolist()), tuple(values), len(signs), round(error, 4))


def _enough(evaluation: Evaluation, what: str) -> None:
    if len(evaluation.true) < 3:
        raise TableError(
            f"{evaluation.table}: {len(evaluation.true)} pairs are too few to calibrate a {what}"
        )

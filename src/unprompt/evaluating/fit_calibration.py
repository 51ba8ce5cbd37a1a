"""Fit the calibration of a model's scores on its answers to held-out pairs."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unprompt.encoding import encode
from unprompt.errors import ModelNotFoundError, TableError, UnpromptError, need
from unprompt.evaluating.evaluation import Evaluation, evaluate
from unprompt.evaluating.metrics import cosines
from unprompt.files import atomic_folder
from unprompt.models.bank.bank import Bank
from unprompt.models.calibration import Calibration
from unprompt.models.decoder import NUM_BEAMS
from unprompt.models.decoder.runtime import TextDecoder, save_calibration
from unprompt.models.model_folder import BANK_FOLDER
from unprompt.pairs.table import PairsTable, as_table
from unprompt.predicting.bank_or_decoder import bank_for
from unprompt.predicting.captioner import Captioner
from unprompt.predicting.embedding_model import EmbeddingModel
from unprompt.predicting.loading import builtin_folder, folder_of, load_model

_PAIRS_PER_KNOT = 30
"""With so many pairs, the mean cosine at a knot has a standard error of about 0.03."""


def calibrate_bank(bank: Bank, evaluation: Evaluation) -> tuple[Calibration, np.ndarray]:
    """Fit the curve from the CSLS of a bank's answer to its expected cosine.

    Args:
        bank: the bank that the model answers from.
        evaluation: the model's predictions on held-out pairs.

    Returns:
        The calibration, and the cosine of each answer to the true prompt, float64 of shape (n,).

    Raises:
        TableError: there are fewer than three pairs.
    """
    _check_enough_pairs(evaluation, "bank")
    rows, inputs = bank.answers(evaluation.predicted)
    actual = cosines(bank.embeddings(rows[:, 0]), evaluation.true)
    return fit_calibration(inputs[:, 0], actual), actual


def calibrate_decoder(
    decoder: TextDecoder, evaluation: Evaluation, beams: int = NUM_BEAMS
) -> tuple[Calibration, np.ndarray]:
    """Fit the curve from the score of a decoder's text to its expected cosine.

    Args:
        decoder: the decoder that writes the answers.
        evaluation: the model's predictions on held-out pairs.
        beams: width of the decoder's beam search.

    Returns:
        The calibration, and the cosine of each answer to the true prompt, float64 of shape (n,).

    Raises:
        TableError: there are fewer than three pairs.
    """
    _check_enough_pairs(evaluation, "decoder")
    texts = [best for best, *_ in decoder.write(evaluation.predicted, beams=beams)]
    written = encode([text.prompt for text in texts], decoder.encoder, precision="fp32")
    actual = cosines(written, evaluation.true)
    return fit_calibration(np.array([text.score for text in texts]), actual), actual


@dataclass(frozen=True)
class Calibrated:
    """The calibrations that `calibrate` fitted.

    Attributes:
        bank: calibration of the bank's answers.
        decoder: calibration of the decoder's answers, if the folder has a decoder.
        decoder_preferred: whether the decoder's answers are nearer to the true prompts.
    """

    bank: Calibration
    decoder: Calibration | None = None
    decoder_preferred: bool = False

    def __str__(self) -> str:
        lines = [f"estimated cosine of a bank's answer: {self.bank}"]
        if self.decoder:
            taken = "the decoder answers" if self.decoder_preferred else "the bank answers better"
            lines.append(f"estimated cosine of a decoder's text: {self.decoder}; {taken}")
        return "\n".join(lines)


def calibrate(
    folder: str | Path,
    table: PairsTable | str | Path,
    split: str | None = "val",
    device: str | None = None,
    model: EmbeddingModel | None = None,
    output: str | Path | None = None,
    batch_size: int = 16,
) -> Calibrated:
    """Fit the calibrations of a model and write them to its folder.

    A model that uses the built-in bank gets a copy of it. So does an ensemble that uses the bank of
    one of its models.

    Args:
        folder: folder of a trained or exported embedder, of an ensemble, or of a kNN model.
        table: pairs that the model was not trained on, or the path of their table.
        split: split of the table; None for all of it.
        device: device of models that run on torch.
        model: the model of that folder, if it is already loaded.
        output: folder for a calibrated copy of the model, new or empty; by default the model's own
            folder is changed.
        batch_size: images in a batch.

    Raises:
        ModelNotFoundError: the folder does not exist.
        TableError: the split does not exist, or has fewer than three pairs.
        UnpromptError: the model is a captioner, which has no scores; or it is the built-in model,
            which is part of the installed package, and no ``output`` is given.
        OutputError: the folder cannot be written.
    """
    need("train", "scipy")
    builtin, folder = builtin_folder(), folder_of(folder)
    if not folder.is_dir():
        raise ModelNotFoundError(f"{folder} is not a folder; name the folder of a model")
    if output is not None:
        with atomic_folder(output) as copy:
            shutil.copytree(folder, copy, dirs_exist_ok=True)
            return calibrate(copy, table, split, device, batch_size=batch_size)
    if folder.resolve().is_relative_to(builtin.resolve()):
        raise UnpromptError(
            "the built-in model is part of the installed package, which is not changed; name a "
            "folder for a calibrated copy: -o DIR"
        )
    table = as_table(table)
    model = model or load_model(folder, device=device)
    if isinstance(model, Captioner):
        raise UnpromptError(
            f"{folder} is a captioner: it writes prompts without scores, so there is nothing to fit"
        )
    evaluation = evaluate(model, table, split, batch_size=batch_size)
    bank = bank_for(model)
    of_bank, bank_cosines = calibrate_bank(bank, evaluation)
    bank = bank.calibrated(of_bank)
    if (folder / BANK_FOLDER).is_dir():
        bank.save_head(folder)
    else:
        bank.save(folder)
    if (decoder := TextDecoder.of(folder)) is None:
        return Calibrated(of_bank)
    of_decoder, decoder_cosines = calibrate_decoder(decoder, evaluation)
    preferred = bool(decoder_cosines.mean() > bank_cosines.mean())
    save_calibration(decoder.folder, of_decoder, preferred)
    return Calibrated(of_bank, of_decoder, preferred)


def fit_calibration(inputs: np.ndarray, actual: np.ndarray) -> Calibration:
    """Fit a rising curve from the calibration inputs of answers to their actual cosines.

    Isotonic regression (Zadrozny and Elkan 2002) on the means of bins of equal counts; on single
    pairs it would make a step at each pair that happens to be high. Each bin's mean is first moved
    towards the mean of all pairs, by the share of its distance that chance explains (Efron and
    Morris 1975). If the inputs say nothing about the cosines, all answers get the mean.

    Args:
        inputs: see `Calibration`, shape (n,), n > 0.
        actual: cosines to the true prompts, shape (n,).
    """
    from scipy.optimize import isotonic_regression

    order = np.argsort(inputs, kind="stable")
    bins = np.array_split(order, max(1, len(inputs) // _PAIRS_PER_KNOT))
    counts = np.array([len(rows) for rows in bins])
    means = np.array([actual[rows].mean() for rows in bins])
    if len(bins) > 1:
        chance = np.array([actual[rows].var(ddof=1) for rows in bins]) / counts
        real = max(0.0, means.var(ddof=1) - chance.mean())
        overall = actual.mean()
        means = overall + (means - overall) * real / np.maximum(real + chance, 1e-12)
    expected = isotonic_regression(means, weights=counts).x.clip(-1, 1)
    knots, first = np.unique(
        [round(float(inputs[rows].mean()), 4) for rows in bins], return_index=True
    )
    values = [round(float(value), 4) for value in expected[first]]
    error = float(np.sqrt(np.mean((np.interp(inputs, knots, values) - actual) ** 2)))
    return Calibration(tuple(knots.tolist()), tuple(values), len(inputs), round(error, 4))


def _check_enough_pairs(evaluation: Evaluation, part: str) -> None:
    if len(evaluation.true) < 3:
        raise TableError(
            f"{evaluation.table}: {len(evaluation.true)} pairs are too few to calibrate a {part}; "
            "three are needed"
        )

"""From predicted embeddings to prompts, by the bank or by the decoder of a model.

`choose_answerer` alone decides which of the two answers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from unprompt.encoding import PromptEncoder, encode, load_encoder
from unprompt.errors import UnpromptError
from unprompt.models.bank.bank import Bank
from unprompt.models.decoder.runtime import TextDecoder
from unprompt.models.model_folder import BANK_FOLDER
from unprompt.predicting.embedding_model import EmbeddingModel
from unprompt.predicting.ensemble_model import EnsembleModel
from unprompt.predicting.knn_model import KnnModel
from unprompt.predicting.loading import builtin_folder, folder_of
from unprompt.predicting.options import PredictOptions

Answerer = Literal["bank", "decoder", "both"]

_RERANKED = 10
"""With `rerank`, the least number of prompts that bank and decoder each propose."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A prompt, the route to it, and its expected cosine to the true prompt, if it is known."""

    prompt: str
    route: str
    score: float | None = None


class BankOrDecoder:
    """Turns a model's embeddings into prompts.

    Args:
        model: predicts the embeddings.
        options: the route, the bank, and how the decoder searches.

    Attributes:
        bank: the bank.
        decoder: the decoder; None if it is not used.
        answerer: ``bank``, ``decoder`` or ``both``: which of them answers.

    Raises:
        ModelNotFoundError: there is no such bank.
        UnpromptError: the bank does not fit the model, or the route is ``decode`` and there is no
            decoder.
    """

    def __init__(self, model: EmbeddingModel, options: PredictOptions):
        self.bank = bank_for(model, options.bank)
        self.answerer, self.decoder = choose_answerer(model, options)
        self._options = options
        # A kNN model has averaged its neighbours already.
        self._knn = 0 if isinstance(model, KnnModel) else options.knn

    def prompts_for(self, predicted: np.ndarray) -> tuple[np.ndarray, list[list[Candidate]]]:
        """Prompts for predicted embeddings.

        Args:
            predicted: float32 (n, dim), of norm 1.

        Returns:
            The embeddings, after kNN regression if the options have it, and the prompts for each of
            them, the best first.
        """
        top_k = self._options.top_k
        target = self.bank.regress(predicted, self._knn) if self._knn else predicted
        if self.answerer == "both":
            return target, self._reranked(target)
        if self.decoder is not None:
            # The decoder was calibrated on embeddings without kNN regression.
            return target, self._written(self.decoder, target, top_k, calibrated=not self._knn)
        return target, self._found(target, predicted, top_k)

    def _found(
        self, target: np.ndarray, predicted: np.ndarray, count: int
    ) -> list[list[Candidate]]:
        """Prompts of the bank.

        The scores are right with kNN regression too (experiments/NOTES.md).
        """
        bank = self.bank
        rows, inputs = bank.answers(target, count)
        if target is not predicted:
            inputs = bank.stand_out(predicted, bank.embeddings(rows))
        expected = bank.calibration or _uncalibrated
        return [
            [
                Candidate(bank.prompts[row], "embed+bank", expected(value))
                for row, value in zip(*line, strict=True)
            ]
            for line in zip(rows, inputs.tolist(), strict=True)
        ]

    def _written(
        self, decoder: TextDecoder, target: np.ndarray, count: int, calibrated: bool
    ) -> list[list[Candidate]]:
        """Prompts of the decoder; its calibration is for beam search, not for sampling."""
        options = self._options
        known = calibrated and options.top_p is None
        expected = (decoder.calibration if known else None) or _uncalibrated
        return [
            [Candidate(text.prompt, "embed+decode", expected(text.score)) for text in texts]
            for texts in decoder.write(target, count, options.num_beams, options.top_p)
        ]

    def _reranked(self, target: np.ndarray) -> list[list[Candidate]]:
        """Prompts of both, ranked by the cosine of their own embeddings to the target.

        They have no score: the decoder writes its prompts for a high cosine to the target, so the
        bank's calibration would expect too much of them: 0.77 instead of 0.54
        (experiments/NOTES.md).
        """
        count = max(self._options.top_k, _RERANKED)
        both = self._found(target, target, count)
        if self.decoder is not None:
            written = self._written(self.decoder, target, count, calibrated=False)
            both = [first + second for first, second in zip(written, both, strict=True)]
        answers = []
        for embedding, found in zip(target, both, strict=True):
            candidates = list({item.prompt: item for item in found}.values())
            cosines = encode([item.prompt for item in candidates], self._encoder) @ embedding
            best = np.argsort(-cosines, kind="stable")[: self._options.top_k]
            answers.append([replace(candidates[place], score=None) for place in best])
        return answers

    @cached_property
    def _encoder(self) -> PromptEncoder:
        return load_encoder(self.bank.encoder)


def _uncalibrated(value: float) -> None:
    """The expected cosine without a calibration: unknown."""


def choose_answerer(
    model: EmbeddingModel, options: PredictOptions
) -> tuple[Answerer, TextDecoder | None]:
    """Decide whether the bank or the decoder answers, and load the decoder if it is needed.

    With ``rerank``, bank and decoder answer together. Otherwise the decoder answers if the route is
    ``decode``, or if the route is ``auto`` and the decoder was measured to be better than the bank
    for this model. In all other cases the bank answers.

    Raises:
        UnpromptError: the route is ``decode`` and there is no decoder.
    """
    if options.route == "embed" and not options.rerank:
        return "bank", None
    decoder = decoder_for(model)
    if options.route == "decode" and decoder is None:
        raise UnpromptError(f"there is no decoder for the embeddings of {model.encoder}")
    if options.rerank:
        return "both", decoder
    if decoder is not None and (options.route == "decode" or decoder.preferred):
        return "decoder", decoder
    return "bank", None


def decoder_for(model: EmbeddingModel) -> TextDecoder | None:
    """The decoder in the model's folder, else the built-in one; None if its encoder is another.

    A decoder that was measured with another model gets no calibration and is not preferred.
    """
    own = TextDecoder.of(model.folder)
    decoder = own or TextDecoder.of(builtin_folder())
    if decoder is None or decoder.encoder != model.encoder:
        return None
    if own is None or _borrows(model):
        decoder.calibration, decoder.preferred = None, False
    return decoder


def bank_for(model: EmbeddingModel, named: str | Path | None = None) -> Bank:
    """The named bank, else the model's own, else the built-in one.

    A bank that was calibrated for another model gets no calibration, unless it is named.

    Raises:
        ModelNotFoundError: the named folder holds no bank.
        UnpromptError: bank and model have different encoders.
    """
    if named is not None:
        bank = Bank.load(folder_of(named))
    else:
        has_one = (Path(model.folder) / BANK_FOLDER).is_dir()
        bank = Bank.load(model.folder if has_one else builtin_folder())
        if not has_one or _borrows(model):
            bank = bank.calibrated(None)
    if bank.encoder != model.encoder:
        raise UnpromptError(
            f"model {model.name} predicts embeddings of {model.encoder}, but its bank holds those "
            f"of {bank.encoder}; name a bank that fits"
        )
    return bank


def _borrows(model: EmbeddingModel) -> bool:
    """Whether the model is an ensemble that uses the bank and decoder of one of its models."""
    return isinstance(model, EnsembleModel) and model.borrows

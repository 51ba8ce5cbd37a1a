"""From predicted embeddings to prompts: the bank and the decoder that belong to a model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

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

_RERANKED = 10
"""Prompts of the bank, and as many of the decoder, that are ranked again."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A prompt, the route to it, and its expected cosine to the truth where that was measured."""

    prompt: str
    route: str
    score: float | None = None


class TextSources:
    """A model's bank and decoder, which turn its embeddings into prompts.

    Args:
        model: predicts the embeddings.
        options: which bank to search, whether the decoder writes, and how.

    Attributes:
        bank: the bank.
        decoder: the decoder, where the route uses it.

    Raises:
        ModelNotFoundError: there is no such bank.
        UnpromptError: the bank does not fit the model, or the route needs a decoder and there is
            none.
    """

    def __init__(self, model: EmbeddingModel, options: PredictOptions):
        self.bank = bank_for(model, options.bank)
        self.decoder = self._chosen_decoder(model, options)
        self._options = options
        # A kNN model has averaged its neighbours already.
        self._knn = 0 if isinstance(model, KnnModel) else options.knn

    @staticmethod
    def _chosen_decoder(model: EmbeddingModel, options: PredictOptions) -> TextDecoder | None:
        if options.route == "embed" and not options.rerank:
            return None
        decoder = decoder_for(model)
        if options.route == "decode" and decoder is None:
            raise UnpromptError(f"there is no decoder for the embeddings of {model.encoder}")
        if options.route == "auto" and not options.rerank and decoder and not decoder.preferred:
            return None
        return decoder

    def prompts_for(self, predicted: np.ndarray) -> tuple[np.ndarray, list[list[Candidate]]]:
        """Prompts for predicted embeddings.

        Args:
            predicted: float32 (n, dim), of norm 1.

        Returns:
            The embeddings after kNN regression, where the options ask for it, and for each of them
            its prompts, the best first.
        """
        top_k = self._options.top_k
        target = self.bank.regress(predicted, self._knn) if self._knn else predicted
        if self._options.rerank:
            return target, self._reranked(target)
        if self.decoder is not None:
            # The decoder was calibrated on embeddings as they are predicted.
            return target, self._written(self.decoder, target, top_k, calibrated=not self._knn)
        return target, self._found(target, predicted, top_k)

    def _found(
        self, target: np.ndarray, predicted: np.ndarray, count: int
    ) -> list[list[Candidate]]:
        """Prompts of the bank.

        Their scores hold for embeddings that kNN regression changed too (experiments/NOTES.md).
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
        """Prompts of the decoder; its calibration holds for texts that beam search finds."""
        options = self._options
        known = calibrated and options.top_p is None
        expected = (decoder.calibration if known else None) or _uncalibrated
        return [
            [Candidate(text.prompt, "embed+decode", expected(text.score)) for text in texts]
            for texts in decoder.write(target, count, options.num_beams, options.top_p)
        ]

    def _reranked(self, target: np.ndarray) -> list[list[Candidate]]:
        """Prompts of both, ranked by the cosine of their own embeddings to the target.

        They have no score: the decoder's prompts have a high cosine because they were written for
        it (the bank's calibration expects 0.77 of them where the truth is 0.54;
        experiments/NOTES.md).
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
    """The expected cosine where it was never measured."""


def decoder_for(model: EmbeddingModel) -> TextDecoder | None:
    """The decoder beside the model, or the built-in one where it reads the same embeddings.

    A decoder that was measured beside another model has no calibration and is not preferred.
    """
    own = TextDecoder.of(model.folder)
    decoder = own or TextDecoder.of(builtin_folder())
    if decoder is None or decoder.encoder != model.encoder:
        return None
    if own is None or _borrows(model):
        decoder.calibration, decoder.preferred = None, False
    return decoder


def bank_for(model: EmbeddingModel, named: str | Path | None = None) -> Bank:
    """The bank that is named, or the model's own, or the built-in one.

    A bank that was calibrated for another model has no calibration, unless it was named.

    Raises:
        ModelNotFoundError: there is no bank in the folder that is named.
        UnpromptError: the bank's embeddings are of another encoder than the model's.
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
    """Whether bank and decoder in the model's folder were made for one of its models."""
    return isinstance(model, EnsembleModel) and model.borrows

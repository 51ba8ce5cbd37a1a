"""From images to prompts: which route answers, streaming and in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from threading import Lock
from typing import Any, cast, overload

import numpy as np

from unprompt.encoding import PromptEncoder, encode, load_encoder
from unprompt.errors import UnpromptError, UnreadableImageError
from unprompt.images import ImageSource, image_name, open_rgb
from unprompt.models.bank.bank import Bank
from unprompt.models.decoder.runtime import TextDecoder
from unprompt.predicting.answer import Alternative, Answer
from unprompt.predicting.captioner_model import Captioner, Search
from unprompt.predicting.embedding_model import BUILTIN, EmbeddingModel, may_overlap, run_batches
from unprompt.predicting.ensemble_model import EnsembleModel, load_models
from unprompt.predicting.knn_model import KnnModel
from unprompt.predicting.text_sources import bank_for, decoder_for
from unprompt.reading import Reading, read

_UNSTATED: tuple[object, ...] = (None, (), {})
_RERANKED = 10
"""Prompts of the bank, and as many of the decoder, that are ranked again."""
ROUTES = ("auto", "read", "embed", "decode", "caption", "interrogate")


class Predictor:
    """Recovers prompts; loads its model once, when the first image needs it.

    Args:
        model: ``builtin``, the folder of a trained or exported model, or a hub repository; a list
            of them answers as an ensemble: the weighted mean of their predictions, each of norm 1.
        route: ``read`` takes the prompt that the file carries and no other; ``embed`` predicts the
            prompt embedding and answers with the nearest prompts of the bank; ``decode`` lets a
            decoder write that embedding out; ``caption`` lets a captioner write the prompt;
            ``interrogate`` composes it of phrases that a CLIP finds nearest to the image;
            ``auto`` reads where the file carries a prompt and asks the model, whichever kind it is,
            where it does not, and takes of bank and decoder what measured better beside it.
        top_k: how many prompts the bank or the captioner gives; those after the first are
            alternatives.
        bank: folder of a model whose bank to search, instead of the model's own. A model without
            one uses the built-in model's.
        device: for models that run on torch.
        search: how a captioner or a decoder seeks its texts.
        knn: average so many of the bank's nearest prompts into the predicted embedding, see
            `Bank.regress`; 0 leaves it as the model predicts it. A `KnnModel` averages so many of
            those nearest to the image.
        rerank: take prompts of both the bank and the decoder, encode them again, and rank them by
            their cosine to the predicted embedding; needs the target encoder.
        weights: how much each of several models counts; equal by default.

    Raises:
        UnpromptError: there is no such route, ``top_k`` is below 1, or ``knn`` below 0.
    """

    def __init__(
        self,
        model: str | Path | Sequence[str | Path] = BUILTIN,
        route: str = "auto",
        top_k: int = 1,
        bank: str | Path | None = None,
        device: str | None = None,
        search: Search | None = None,
        knn: int = 0,
        rerank: bool = False,
        weights: Sequence[float] | None = None,
    ):
        if route not in ROUTES:
            raise UnpromptError(f"route '{route}': must be one of {', '.join(ROUTES)}")
        if top_k < 1:
            raise UnpromptError(f"top_k={top_k}: must be at least 1")
        if knn < 0:
            raise UnpromptError(f"knn={knn}: must be at least 0")
        self.route = route
        self.knn = knn
        self.rerank = rerank
        self.top_k = top_k
        self._names = [model] if isinstance(model, str | Path) else [*model]
        self._weights = weights
        self._bank_named = bank
        self._device = device
        self._search = search
        self._loaded: tuple[EmbeddingModel, Bank | None, TextDecoder | None] | None = None
        self._lock = Lock()

    @property
    def model(self) -> EmbeddingModel:
        """The embedder.

        Raises:
            ModelNotFoundError: there is no such model.
            MissingExtraError: it needs torch, which is not installed.
        """
        return self._load()[0]

    @property
    def bank(self) -> Bank:
        """The bank that `model` searches; raises as `model`, and where a captioner has none."""
        bank = self._load()[1]
        if bank is None:
            raise UnpromptError(f"model {self.model.name} writes its prompts and has no bank")
        return bank

    @property
    def decoder(self) -> TextDecoder | None:
        """The decoder that writes this route's answers, or None; raises as `model`."""
        return self._load()[2]

    @overload
    def predict(self, images: ImageSource) -> Answer: ...  # type: ignore[overload-overlap]

    @overload
    def predict(self, images: Sequence[ImageSource]) -> list[Answer]: ...

    def predict(self, images: ImageSource | Sequence[ImageSource]) -> Answer | list[Answer]:
        """The prompt of one image, or of each of a list; of very many, see `stream`.

        Args:
            images: path, encoded bytes, binary file object or PIL image; or a list or tuple of
                such.
        """
        if isinstance(images, list | tuple):
            return list(self.stream(images))
        return next(self.stream([cast("ImageSource", images)]))

    def stream(self, images: Iterable[ImageSource], batch_size: int = 16) -> Iterator[Answer]:
        """Answer for each image, in order; holds at most three batches of them.

        An image that cannot be read gets an answer with an error, and the rest goes on.

        Raises:
            ModelNotFoundError: there is no such model.
            MissingExtraError: it needs torch, which is not installed.
        """
        if self.route not in ("auto", "read"):
            self._load()
        preparations = (partial(self._prepare, image) for image in images)
        batches = run_batches(self._run, preparations, batch_size, self._may_overlap)
        for answer, output in batches:
            yield answer if output is None else self._answered(answer, *output)

    def answer(self, embedding: np.ndarray) -> Answer:
        """The prompt of a predicted prompt embedding, float32 (dim,); names no file.

        Raises:
            UnpromptError: the model is a captioner, which writes from pixels only.
        """
        embeddings, (candidates,) = self._worded(embedding[None])
        return self._answered(Answer(""), embeddings[0], candidates)

    def _prepare(self, image: ImageSource) -> tuple[Answer, np.ndarray | None]:
        """The answer so far, and the pixels to embed where it is not complete."""
        answer = Answer(image_name(image))
        if hasattr(image, "read"):
            image = image.read()
        try:
            if self.route in ("auto", "read") and (reading := read(image)):
                answer = _stated(answer, reading)
                if answer.route == "read":
                    return answer, None
            if self.route == "read":
                return replace(answer, error="the file carries no prompt"), None
            preprocessing = self.model.preprocessing
            return answer, preprocessing(open_rgb(image, at_least=preprocessing.least_side))
        except UnreadableImageError as error:
            return replace(answer, error=str(error).removeprefix(f"{answer.file}: ")), None

    def _may_overlap(self) -> bool:
        return may_overlap(self.model) and not self.rerank

    def _run(self, pixels: np.ndarray) -> tuple[np.ndarray, Any]:
        model = self.model
        if isinstance(model, Captioner):
            captions = model.caption(pixels, self.top_k)
            # Probabilities of a text rank captions of one image; they estimate no cosine.
            candidates = [
                [_Candidate(best.text, model.route, None)]
                + [_Candidate(item.text, model.route, item.score) for item in others]
                for best, *others in captions
            ]
            return model.embed([best.text for best, *_ in captions]), candidates
        return self._worded(model.run(pixels)[0])

    def _worded(self, predicted: np.ndarray) -> tuple[np.ndarray, list[list[_Candidate]]]:
        """Predicted embeddings, as the settings change them, and prompts for each, best first."""
        asked = predicted
        if self.knn and not isinstance(self.model, KnnModel):
            asked = self.bank.regress(predicted, self.knn)
        if self.rerank:
            return asked, self._reranked(asked)
        if self.decoder is None:
            return asked, self._found(asked, predicted, self.top_k)
        return asked, self._written(asked, self.top_k, judge=not self.knn)

    def _answered(
        self, answer: Answer, embedding: np.ndarray, candidates: list[_Candidate]
    ) -> Answer:
        best, *others = candidates
        return replace(
            answer,
            prompt=best.prompt,
            route="ensemble" if isinstance(self.model, EnsembleModel) else best.route,
            score=best.score,
            alternatives=tuple(Alternative(item.prompt, item.score) for item in others),
            model=self.model.name,
            embedding=embedding,
        )

    def _found(
        self, asked: np.ndarray, predicted: np.ndarray, count: int
    ) -> list[list[_Candidate]]:
        """Prompts of the bank that answer what is asked for, best first."""
        rows, signs = self.bank.answers(asked, count)
        if asked is not predicted:
            signs = self.bank.stand_out(predicted, self.bank.embeddings(rows))
        scores = self._expected(signs)
        return [
            [
                _Candidate(self.bank.prompts[row], "embed+bank", score)
                for row, score in zip(*line, strict=True)
            ]
            for line in zip(rows, scores, strict=True)
        ]

    def _written(self, asked: np.ndarray, count: int, judge: bool) -> list[list[_Candidate]]:
        """Prompts of the decoder for each embedding, best first.

        How probable it finds them was measured for embeddings as they are predicted, and for those
        texts that beam search finds.
        """
        decoder = self.decoder
        if decoder is None:
            return [[] for _ in asked]
        search = self._search or Search()
        expected = (judge and search.top_p is None and decoder.calibration) or _unknown
        texts = decoder.write(asked, count, search.num_beams, search.top_p)
        return [
            [_Candidate(text.prompt, "embed+decode", expected(text.score)) for text in row]
            for row in texts
        ]

    def _reranked(self, asked: np.ndarray) -> list[list[_Candidate]]:
        """Prompts of both, ranked by their own embeddings' cosine to the one that is asked for.

        They have no score: those that the decoder writes stand out because they were written to
        (estimated by the bank's curve 0.77, in truth 0.54; experiments/NOTES.md).
        """
        answers = []
        count = max(self.top_k, _RERANKED)
        found = self._found(asked, asked, count)
        written = self._written(asked, count, judge=False)
        for row, both in enumerate(zip(written, found, strict=True)):
            candidates = list({item.prompt: item for items in both for item in items}.values())
            encoded = encode([item.prompt for item in candidates], self._encoder)
            best = np.argsort(-encoded @ asked[row], kind="stable")[: self.top_k]
            answers.append([replace(candidates[place], score=None) for place in best])
        return answers

    def _expected(self, signs: np.ndarray) -> list[list[float | None]]:
        """Expected cosines of the bank's answers with so much CSLS to what was predicted.

        It was measured for embeddings as they are predicted, and holds for those that `knn`
        averages (experiments/NOTES.md).
        """
        expected = self.bank.calibration or _unknown
        return [[expected(sign) for sign in row] for row in signs.tolist()]

    def _load(self) -> tuple[EmbeddingModel, Bank | None, TextDecoder | None]:
        with self._lock:
            if self._loaded is None:
                model = load_models(self._names, self._weights, self._device)
                for one in model.models if isinstance(model, EnsembleModel) else [model]:
                    if isinstance(one, Captioner):
                        one.search = self._search or one.search
                    if self.knn and isinstance(one, KnnModel):
                        one.neighbours = self.knn
                if isinstance(model, Captioner):
                    if self.route not in ("auto", "read", model.route):
                        raise UnpromptError(
                            f"model {model.name} writes prompts; --route {model.route}"
                        )
                    self._loaded = model, None, None
                elif self.route in ("caption", "interrogate"):
                    wanted = {
                        "caption": "captioner; name one, as a CoCa's folder",
                        "interrogate": "interrogator; name a CLIP, as hf_clip/…",
                    }
                    raise UnpromptError(f"model {model.name} is no {wanted[self.route]}")
                else:
                    bank = bank_for(model, self._bank_named)
                    self._loaded = model, bank, self._decoder_for(model)
            return self._loaded

    @cached_property
    def _encoder(self) -> PromptEncoder:
        return load_encoder(self.model.encoder)

    def _decoder_for(self, model: EmbeddingModel) -> TextDecoder | None:
        if self.route == "embed" and not self.rerank:
            return None
        decoder = decoder_for(model)
        if self.route == "decode" and decoder is None:
            raise UnpromptError(f"there is no decoder for the embeddings of {model.encoder}")
        if self.route == "auto" and not self.rerank and decoder and not decoder.preferred:
            return None
        return decoder


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A prompt, how it was got, and its expected cosine to the truth."""

    prompt: str
    route: str
    score: float | None


def _unknown(value: float) -> None:
    """The expected cosine where none was ever measured."""


def _stated(answer: Answer, reading: Reading) -> Answer:
    """What the file states; complete when it states the prompt."""
    settings = reading.to_dict(raw=False)["settings"]
    return replace(
        answer,
        prompt=reading.prompt,
        route=None if reading.prompt is None else "read",
        negative_prompt=reading.negative_prompt,
        generator=reading.generator,
        settings={name: value for name, value in settings.items() if value not in _UNSTATED}
        or None,
    )


def predict(
    image: ImageSource,
    model: str | Path | Sequence[str | Path] = BUILTIN,
    route: str = "auto",
    top_k: int = 1,
    device: str | None = None,
) -> Answer:
    """The prompt of one image; for many, make a `Predictor` once and use its `stream`.

    Args:
        image: path, encoded bytes, binary file object or PIL image.
        model: as in `Predictor`, and so the others.
        route: ``auto``, ``read`` or ``embed``.
        top_k: how many prompts to give.
        device: for models that run on torch.

    Returns:
        The answer; where there is none, its ``error`` says why.

    Raises:
        ModelNotFoundError: there is no such model.
    """
    return Predictor(model, route, top_k, device=device).predict(image)

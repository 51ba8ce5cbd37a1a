"""The predictor: it answers each image from its file or with a model, one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import IO, Unpack, cast, overload

import numpy as np

from unprompt.errors import UnpromptError, UnreadableImageError
from unprompt.images import ImageSource, image_name, open_rgb
from unprompt.models.bank.bank import Bank
from unprompt.predicting.answer import Alternative, Answer
from unprompt.predicting.bank_or_decoder import BankOrDecoder, Candidate
from unprompt.predicting.captioner import Caption, Captioner
from unprompt.predicting.embedding_model import EmbeddingModel
from unprompt.predicting.ensemble_model import EnsembleModel
from unprompt.predicting.image_batches import may_overlap, run_batches
from unprompt.predicting.loading import BUILTIN, load_models
from unprompt.predicting.options import OptionFields, PredictOptions
from unprompt.reading import Reading, read

_UNSTATED: tuple[object, ...] = (None, [], {})
_WRITTEN_BY = {
    "caption": "no captioner; name one, such as the folder of a CoCa",
    "interrogate": "no interrogator; name a CLIP, such as hf_clip/…",
}


class Predictor:
    """Recovers prompts. It loads its model when the first image needs it.

    Args:
        model: ``builtin``, the folder of a trained or exported model, a hub repository, or another
            name that `load_model` takes. Several models answer as an ensemble.
        options: how prompts are recovered.
        fields: fields of the options to set, such as ``top_k=3``.

    Attributes:
        options: how prompts are recovered.

    Raises:
        UnpromptError: an option is out of its range.
    """

    def __init__(
        self,
        model: str | Path | Sequence[str | Path] = BUILTIN,
        options: PredictOptions | None = None,
        **fields: Unpack[OptionFields],
    ):
        self.options = replace(options or PredictOptions(), **fields)
        self._names = [model] if isinstance(model, str | Path) else [*model]
        self._loaded: tuple[EmbeddingModel, BankOrDecoder | None] | None = None
        self._lock = Lock()

    @property
    def model(self) -> EmbeddingModel:
        """The model.

        Raises:
            ModelNotFoundError: there is no such model.
            MissingExtraError: the model needs torch, which is not installed.
            UnpromptError: the model cannot answer by this route.
        """
        return self._load()[0]

    @property
    def bank(self) -> Bank:
        """The bank that answers come from; for errors see `model`. A captioner has no bank."""
        return self._sources.bank

    @overload
    def predict(self, images: ImageSource) -> Answer: ...  # type: ignore[overload-overlap]

    @overload
    def predict(self, images: Sequence[ImageSource]) -> list[Answer]: ...

    def predict(self, images: ImageSource | Sequence[ImageSource]) -> Answer | list[Answer]:
        """Recover the prompt of one image or of each in a list; for many images use `stream`.

        Args:
            images: path, encoded bytes, binary file object or PIL image; or a list or tuple of
                them.
        """
        if isinstance(images, list | tuple):
            return list(self.stream(images))
        return next(self.stream([cast("ImageSource", images)]))

    def stream(self, images: Iterable[ImageSource]) -> Iterator[Answer]:
        """Yield an answer for each image, in order; at most three batches are in memory.

        An image that cannot be read gets an answer with an error, and the next images follow.

        Raises:
            ModelNotFoundError: there is no such model.
            MissingExtraError: the model needs torch, which is not installed.
        """
        if self.options.route not in ("auto", "read"):
            self._load()
        preparations = (partial(self._prepare, image) for image in images)
        batches = run_batches(
            self._candidates, preparations, self.options.batch_size, self._may_overlap
        )
        for answer, output in batches:
            yield answer if output is None else self._answered(answer, *output)

    def answer(self, embedding: np.ndarray) -> Answer:
        """Find the prompt of a predicted embedding, float32 (dim,); the answer names no file.

        Raises:
            UnpromptError: the model is a captioner, which needs pixels.
        """
        embeddings, (candidates,) = self._sources.prompts_for(embedding[None])
        return self._answered(Answer(""), embeddings[0], candidates)

    def from_file(self, image: ImageSource, name: str) -> tuple[Answer, bool]:
        """Answer from the file alone, under a name; also return whether a model has to answer."""
        answer, route = Answer(name), self.options.route
        try:
            if route in ("auto", "read") and (reading := read(image)):
                answer = _stated(answer, reading)
        except UnreadableImageError as error:
            return _failed(answer, error, image), False
        if answer.prompt is not None and (answer.certain or route == "read"):
            return answer, False
        if route == "read":
            return replace(answer, error="the file carries no prompt"), False
        return answer, True

    def decode(self, image: ImageSource, answer: Answer) -> tuple[Answer, np.ndarray | None]:
        """Add the model's input to the answer of `from_file`; None if it cannot be decoded."""
        preprocessing = self.model.preprocessing
        try:
            return answer, preprocessing(open_rgb(image, at_least=preprocessing.least_side))
        except UnreadableImageError as error:
            return _failed(answer, error, image), None

    def complete(self, prepared: Sequence[tuple[Answer, np.ndarray]]) -> list[Answer]:
        """Answer for a batch of at least one image that `decode` has prepared."""
        outputs = self._candidates(np.stack([pixels for _, pixels in prepared]))
        return [
            self._answered(answer, *output)
            for (answer, _), output in zip(prepared, zip(*outputs, strict=True), strict=True)
        ]

    def _prepare(self, image: ImageSource) -> tuple[Answer, np.ndarray | None]:
        """The answer from the file, and the pixels if a model has to answer; else None."""
        name = image_name(image)
        if hasattr(image, "read"):
            try:
                image = _content(cast("IO[bytes]", image), name)
            except UnreadableImageError as error:
                return _failed(Answer(name), error, image), None
        answer, needs_model = self.from_file(image, name)
        return self.decode(image, answer) if needs_model else (answer, None)

    def _candidates(self, pixels: np.ndarray) -> tuple[np.ndarray, list[list[Candidate]]]:
        """The predicted embedding of each image in a batch, and its prompts, best first."""
        model = self.model
        if not isinstance(model, Captioner):
            return self._sources.prompts_for(model.run(pixels)[0])
        captions = model.caption(pixels, self.options.top_k)
        embeddings = model.embed([best.text for best, *_ in captions])
        return embeddings, [_ranked_captions(found, model.route) for found in captions]

    def _may_overlap(self) -> bool:
        return may_overlap(self.model) and not self.options.rerank

    def _answered(
        self, answer: Answer, embedding: np.ndarray, candidates: list[Candidate]
    ) -> Answer:
        if answer.prompt is not None:  # a guess from the file; add the model's prompts to it
            predicted = tuple(Alternative(item.prompt, item.score) for item in candidates)
            return replace(answer, alternatives=predicted, model=self.model.name)
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

    @property
    def _sources(self) -> BankOrDecoder:
        model, sources = self._load()
        if sources is None:
            raise UnpromptError(f"model {model.name} writes its prompts and has no bank")
        return sources

    def _load(self) -> tuple[EmbeddingModel, BankOrDecoder | None]:
        with self._lock:
            if self._loaded is None:
                model = load_models(self._names, self.options)
                self._check_route(model)
                writes = isinstance(model, Captioner)
                self._loaded = model, None if writes else BankOrDecoder(model, self.options)
            return self._loaded

    def _check_route(self, model: EmbeddingModel) -> None:
        route = self.options.route
        if isinstance(model, Captioner):
            if route not in ("auto", "read", model.route):
                raise UnpromptError(f"model {model.name} writes prompts; use route {model.route}")
        elif route in _WRITTEN_BY:
            raise UnpromptError(f"model {model.name} is {_WRITTEN_BY[route]}")


def _ranked_captions(captions: list[Caption], route: str) -> list[Candidate]:
    """Captions as candidates; the best has no score, because captions have no expected cosine."""
    best, *others = captions
    return [
        Candidate(best.text, route),
        *(Candidate(other.text, route, other.score) for other in others),
    ]


def _failed(answer: Answer, error: UnreadableImageError, image: ImageSource) -> Answer:
    """The answer for an image that cannot be decoded: the guess from the file, or the error."""
    if answer.prompt is not None:
        return answer
    return replace(answer, error=str(error).removeprefix(f"{image_name(image)}: "))


def _content(file: IO[bytes], name: str) -> bytes:
    try:
        return file.read()
    except OSError as error:
        raise UnreadableImageError(f"{name}: cannot be read ({error})") from error


def _stated(answer: Answer, reading: Reading) -> Answer:
    """Add everything that the file states to an answer."""
    settings = reading.to_dict(raw=False)["settings"]
    return replace(
        answer,
        prompt=reading.prompt,
        route=None if reading.prompt is None else "read",
        negative_prompt=reading.negative_prompt,
        generator=reading.generator,
        settings={name: value for name, value in settings.items() if value not in _UNSTATED}
        or None,
        certain=reading.certain,
    )


def predict(
    image: ImageSource,
    model: str | Path | Sequence[str | Path] = BUILTIN,
    **fields: Unpack[OptionFields],
) -> Answer:
    """Recover the prompt of one image; for many images use `Predictor.stream`.

    Args:
        image: path, encoded bytes, binary file object or PIL image.
        model: see `Predictor`.
        fields: fields of `PredictOptions`, such as ``route="embed"`` or ``top_k=3``.

    Returns:
        The answer; if there is no prompt, its ``error`` states why.

    Raises:
        ModelNotFoundError: there is no such model.
    """
    return Predictor(model, **fields).predict(image)

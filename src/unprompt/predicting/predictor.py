"""From images to prompts: which route answers, streaming and in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from unprompt.errors import UnpromptError, UnreadableImageError
from unprompt.images import ImageSource, image_name, open_rgb
from unprompt.models.bank import BANK_FOLDER, Bank, Match
from unprompt.predicting.answer import Alternative, Answer
from unprompt.predicting.captioner import CaptionModel, Search
from unprompt.predicting.model import (
    BUILTIN,
    EmbeddingModel,
    builtin_folder,
    load_model,
    run_batches,
)
from unprompt.reading import Reading, read

_UNSTATED: tuple[object, ...] = (None, (), {})
ROUTES = ("auto", "read", "embed", "caption")


class Predictor:
    """Recovers prompts; loads its model once, when the first image needs it.

    Args:
        model: ``builtin``, the folder of a trained or exported model, or a hub repository.
        route: ``read`` takes the prompt that the file carries and no other; ``embed`` predicts the
            prompt embedding and answers with the nearest prompts of the bank; ``caption`` lets a
            captioner write the prompt; ``auto`` reads where the file carries a prompt and asks the
            model, whichever kind it is, where it does not.
        top_k: how many prompts the bank or the captioner gives; those after the first are
            alternatives.
        bank: folder of a model whose bank to search, instead of the model's own. A model without
            one uses the built-in model's.
        device: for models that run on torch.
        search: how a captioner seeks its captions.
        knn: average so many of the bank's nearest prompts into the predicted embedding, see
            `Bank.regress`; 0 leaves it as the model predicts it.

    Raises:
        UnpromptError: there is no such route, ``top_k`` is below 1, or ``knn`` below 0.
    """

    def __init__(
        self,
        model: str | Path = BUILTIN,
        route: str = "auto",
        top_k: int = 1,
        bank: str | Path | None = None,
        device: str | None = None,
        search: Search | None = None,
        knn: int = 0,
    ):
        if route not in ROUTES:
            raise UnpromptError(f"route '{route}': must be one of {', '.join(ROUTES)}")
        if top_k < 1:
            raise UnpromptError(f"top_k={top_k}: must be at least 1")
        if knn < 0:
            raise UnpromptError(f"knn={knn}: must be at least 0")
        self.route = route
        self.knn = knn
        self.top_k = top_k
        self._named = (model, bank, device)
        self._search = search
        self._loaded: tuple[EmbeddingModel, Bank | None] | None = None
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

    def predict(self, image: ImageSource) -> Answer:
        """The prompt of one image: path, encoded bytes, binary file object or PIL image."""
        return next(self.stream([image]))

    def stream(self, images: Iterable[ImageSource], batch_size: int = 16) -> Iterator[Answer]:
        """Answer for each image, in order; holds at most two batches of them.

        An image that cannot be read gets an answer with an error, and the rest goes on.

        Raises:
            ModelNotFoundError: there is no such model.
            MissingExtraError: it needs torch, which is not installed.
        """
        if self.route in ("embed", "caption"):
            self._load()
        preparations = (partial(self._prepare, image) for image in images)
        for answer, output in run_batches(self._run, preparations, batch_size):
            yield answer if output is None else self._answered(answer, *output)

    def answer(self, embedding: np.ndarray) -> Answer:
        """The prompt of a predicted prompt embedding, float32 (dim,); names no file.

        Raises:
            UnpromptError: the model is a captioner, which writes from pixels only.
        """
        return self._embedded(Answer(""), embedding)

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

    def _run(self, pixels: np.ndarray) -> tuple[Any, Any]:
        model = self.model
        if isinstance(model, CaptionModel):
            captions = model.caption(pixels, self.top_k)
            return model.embed([best.text for best, *_ in captions]), captions
        return model.run(pixels)

    def _answered(self, answer: Answer, embedding: np.ndarray, found: Any) -> Answer:
        if not isinstance(self.model, CaptionModel):
            return self._embedded(answer, embedding)
        best, *others = found
        return replace(
            answer,
            prompt=best.text,
            route="caption",
            alternatives=tuple(Alternative(item.text, item.score) for item in others),
            model=self.model.name,
            embedding=embedding,
        )

    def _embedded(self, answer: Answer, embedding: np.ndarray) -> Answer:
        if self.knn:
            embedding = self.bank.regress(embedding[None], self.knn)[0]
        best, *others = self.bank.search(embedding[None], self.top_k)[0]
        return replace(
            answer,
            prompt=best.prompt,
            route="embed+bank",
            score=self._score(best),
            alternatives=tuple(Alternative(match.prompt, self._score(match)) for match in others),
            model=self.model.name,
            embedding=embedding,
        )

    def _score(self, match: Match) -> float | None:
        calibration = self.bank.calibration
        return calibration(match.cosine) if calibration else None

    def _load(self) -> tuple[EmbeddingModel, Bank | None]:
        with self._lock:
            if self._loaded is None:
                name, bank, device = self._named
                model = load_model(name, device)
                if isinstance(model, CaptionModel):
                    if self.route == "embed":
                        raise UnpromptError(f"model {name} writes prompts; --route caption")
                    model.search = self._search or model.search
                    self._loaded = model, None
                elif self.route == "caption":
                    raise UnpromptError(
                        f"model {name} is no captioner; name one, as a CoCa's folder"
                    )
                else:
                    self._loaded = model, bank_for(model, bank)
            return self._loaded


def bank_for(model: EmbeddingModel, stated: str | Path | None = None) -> Bank:
    """The bank that was named, or the model's own, or the built-in one.

    Raises:
        ModelNotFoundError: no bank stands where one was named.
        UnpromptError: the bank's embeddings are of another encoder than the model's.
    """
    if stated is not None:
        bank = Bank.load(builtin_folder() if str(stated) == BUILTIN else stated)
    elif (Path(model.folder) / BANK_FOLDER).is_dir():
        bank = Bank.load(model.folder)
    else:
        bank = Bank.load(builtin_folder())
        # How far its prompts are from the truth was measured for the built-in model only.
        bank = Bank(bank.prompts, bank.rows, bank.encoder)
    if bank.encoder != model.encoder:
        raise UnpromptError(
            f"model {model.name} predicts embeddings of {model.encoder}, but its bank holds those "
            f"of {bank.encoder}; name a bank that fits"
        )
    return bank


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
    model: str | Path = BUILTIN,
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

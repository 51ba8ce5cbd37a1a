"""The options of prediction: one object for the models, the bank, the decoder and the predictor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from unprompt.errors import UnpromptError
from unprompt.models.decoder import NUM_BEAMS

ROUTES = ("auto", "read", "embed", "decode", "caption", "interrogate")


@dataclass(frozen=True)
class PredictOptions:
    """How prompts are recovered.

    Attributes:
        route: ``read`` takes the prompt that is stored in the file and runs no model. ``embed``
            predicts the prompt embedding and answers with the best prompts of the bank.
            ``decode`` lets a decoder write a prompt for that embedding. ``caption`` lets a
            captioner write the prompt. ``interrogate`` composes the prompt of the phrases that a
            CLIP finds nearest to the image. ``auto`` reads the prompt in the file; if there is
            none, it runs the model, and takes bank or decoder, whichever was measured to be better.
        top_k: number of prompts for each image. The prompts after the first are alternatives.
        bank: folder of a bank, or of a model with a bank, to search instead of the model's own
            bank. A model without a bank uses the built-in bank.
        weights: weight of each of several models; equal by default.
        knn: replace a predicted embedding by the mean of this many bank prompts nearest to it, see
            `Bank.regress`; 0 does not. For a `KnnModel`: the number of prompts that it averages; 0
            takes the number in its folder.
        rerank: take prompts of both bank and decoder, encode them and rank them by their cosine to
            the predicted embedding. This needs the target encoder.
        num_beams: beams of a captioner's or a decoder's search; 1 is greedy.
        top_p: let captioner or decoder sample from the smallest set of tokens with this
            probability, in (0, 1]; None searches with beams.
        device: device of models that run on torch; by default ``cuda`` if there is one.
        batch_size: number of images in a batch.

    Raises:
        UnpromptError: a value is out of its range.
    """

    route: str = "auto"
    top_k: int = 1
    bank: str | Path | None = None
    weights: Sequence[float] | None = None
    knn: int = 0
    rerank: bool = False
    num_beams: int = NUM_BEAMS
    top_p: float | None = None
    device: str | None = None
    batch_size: int = 16

    def __post_init__(self) -> None:
        if self.route not in ROUTES:
            raise UnpromptError(f"route '{self.route}': must be one of {', '.join(ROUTES)}")
        for name, least in (("top_k", 1), ("knn", 0), ("num_beams", 1), ("batch_size", 1)):
            if (value := getattr(self, name)) < least:
                raise UnpromptError(f"{name}={value}: must be at least {least}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UnpromptError(f"top_p={self.top_p}: must be above 0 and at most 1")


class OptionFields(TypedDict, total=False):
    """The fields of `PredictOptions` as keyword arguments."""

    route: str
    top_k: int
    bank: str | Path | None
    weights: Sequence[float] | None
    knn: int
    rerank: bool
    num_beams: int
    top_p: float | None
    device: str | None
    batch_size: int

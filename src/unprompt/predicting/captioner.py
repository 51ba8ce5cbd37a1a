"""Captioners: models that write prompts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from unprompt.encoding import encode
from unprompt.predicting.options import PredictOptions

if TYPE_CHECKING:
    from unprompt.predicting.embedding_model import ImagePreprocessing


@dataclass(frozen=True)
class Caption:
    """A written prompt.

    Attributes:
        text: the prompt.
        score: ranks the captions of one image. Captioners give the geometric mean of the
            probabilities of the caption's tokens, in (0, 1].
    """

    text: str
    score: float


class Captioner(ABC):
    """A model that writes prompts.

    A captioner is an `EmbeddingModel` too: it embeds an image as the embedding of its best caption.

    Attributes:
        route: the route in its answers.
    """

    route: ClassVar[str] = "caption"

    name: str
    folder: Path
    encoder: str
    preprocessing: ImagePreprocessing

    @abstractmethod
    def describe(
        self, pixels: np.ndarray, top_k: int = 1
    ) -> tuple[list[list[Caption]], np.ndarray | None]:
        """Write prompts for images.

        Args:
            pixels: uint8 (images, 3, size, size).
            top_k: most prompts to write for each image, all different.

        Returns:
            For each image its captions, the best first; and the features of the images, float32
            (images, width), or None if the model has none.
        """

    def caption(self, pixels: np.ndarray, top_k: int = 1) -> list[list[Caption]]:
        """The captions of `describe`."""
        return self.describe(pixels, top_k)[0]

    def run(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[Caption]]:
        """See `EmbeddingModel.run`; the best caption of each image is the third item.

        If the model has no features, the embeddings are returned as features.
        """
        captions, features = self.describe(pixels)
        best = [found[0] for found in captions]
        embeddings = self.embed([caption.text for caption in best])
        return embeddings, embeddings if features is None else features, best

    def embed(self, prompts: list[str]) -> np.ndarray:
        """Prompt embeddings of captions, float32 (n, dim)."""
        return encode(prompts, self.encoder)


def generate_arguments(options: PredictOptions, top_k: int) -> dict[str, Any]:
    """Arguments of transformers' ``generate`` for ``top_k`` captions of each image."""
    if options.top_p is None:
        search: dict[str, Any] = {"num_beams": max(options.num_beams, top_k)}
    else:
        search = {"num_beams": 1, "do_sample": True, "top_p": options.top_p, "top_k": 0}
    return search | {"num_return_sequences": top_k}


def ranked_by_image(
    texts: Sequence[str], scores: Sequence[float], top_k: int
) -> list[list[Caption]]:
    """The captions of each image, see `ranked`, from ``top_k`` texts for each image."""
    starts = range(0, len(texts), top_k)
    return [ranked(texts[i : i + top_k], scores[i : i + top_k]) for i in starts]


def ranked(texts: Sequence[str], scores: Sequence[float]) -> list[Caption]:
    """The captions of one image, the best first; of equal texts, only the best is kept."""
    best: dict[str, float] = {}
    for text, score in zip(texts, scores, strict=True):
        best[text] = max(score, best.get(text, score))
    return [Caption(*item) for item in sorted(best.items(), key=lambda item: -item[1])]

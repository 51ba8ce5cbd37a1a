"""The answer for one image: its prompt and how it was found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Alternative:
    """Another prompt that may have made the image.

    Attributes:
        prompt: the prompt.
        score: the estimated cosine between its embedding and that of the true prompt. A captioner
            states the geometric mean of its tokens' probabilities instead, and an interrogator the
            CLIP's cosine between prompt and image.
    """

    prompt: str
    score: float | None


@dataclass(frozen=True, slots=True)
class Answer:
    """The prompt of one image.

    Attributes:
        file: the image as the caller named it.
        prompt: the recovered prompt; None if there is an error.
        route: how the prompt was found: ``read`` (stated in the file), ``embed+bank``,
            ``embed+decode``, ``caption``, ``interrogate``, or ``ensemble`` (of several models).
        score: the estimated cosine between the embeddings of this prompt and of the true prompt;
            None for ``read`` and for models without a calibration.
        alternatives: further prompts, best first.
        negative_prompt: as the file states it.
        generator: the program that made the image, as the file states it.
        settings: settings such as seed and sampler, as the file states them.
        model: the model that answered; None for ``read``.
        error: why there is no answer.
        certain: False if ``prompt`` is a best guess from the file; ``alternatives`` are then the
            prompts that the model predicts.
        embedding: the predicted prompt embedding, float32 of shape (dim,), norm 1; None for
            ``read``.
    """

    file: str
    prompt: str | None = None
    route: str | None = None
    score: float | None = None
    alternatives: tuple[Alternative, ...] = ()
    negative_prompt: str | None = None
    generator: str | None = None
    settings: Mapping[str, Any] | None = None
    model: str | None = None
    error: str | None = None
    certain: bool = True
    embedding: np.ndarray | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """All fields except the embedding, ready for JSON."""
        stated = {name: getattr(self, name) for name in self.__slots__ if name != "embedding"}
        alternatives = [
            {"prompt": item.prompt, "score": _rounded(item.score)} for item in self.alternatives
        ]
        return stated | {
            "alternatives": alternatives or None,
            "score": _rounded(self.score),
            "settings": dict(self.settings) if self.settings else None,
        }


def _rounded(score: float | None) -> float | None:
    return None if score is None else round(score, 4)

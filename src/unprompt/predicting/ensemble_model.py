"""Several models as one: each predicts an embedding, and the answer is their weighted mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from unprompt.errors import UnpromptError
from unprompt.files import write_json
from unprompt.models.bank.bank import unit
from unprompt.models.model_folder import ENSEMBLE_FILE, damaged, read_json
from unprompt.predicting.embedding_model import EmbeddingModel, ImagePreprocessing


@dataclass(frozen=True)
class JointPreprocessing:
    """The preprocessing of several models; their pixels are concatenated.

    Attributes:
        parts: preprocessing of each model.
    """

    parts: tuple[ImagePreprocessing, ...]

    @property
    def size(self) -> int:
        """The largest of the models' input sizes, in pixels."""
        return max(part.size for part in self.parts)

    @property
    def least_side(self) -> int:
        """See `ImagePreprocessing.least_side`; the largest of the models' values."""
        return max(part.least_side for part in self.parts)

    def __call__(self, image: Image.Image) -> np.ndarray:
        """The pixels of every model, uint8 of `shape`."""
        return np.concatenate([part(image).ravel() for part in self.parts])

    @property
    def shape(self) -> tuple[int]:
        """Of one image's pixels: all values in a row."""
        return (sum(math.prod(shape) for shape in self._shapes),)

    @property
    def _shapes(self) -> list[tuple[int, ...]]:
        return [
            part.shape if isinstance(part, JointPreprocessing) else (3, part.size, part.size)
            for part in self.parts
        ]

    def split(self, pixels: np.ndarray) -> list[np.ndarray]:
        """A batch of joint pixels as each model takes it, uint8 (batch, 3, size, size).

        A model that is itself an ensemble takes (batch, values).
        """
        shapes = self._shapes
        ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
        return [
            block.reshape(len(pixels), *shape)
            for block, shape in zip(np.split(pixels, ends, axis=1), shapes, strict=True)
        ]


class EnsembleModel:
    """Several models with one target encoder as one `EmbeddingModel`.

    Each prediction is brought to norm 1 before it is weighted, so that a confident model does not
    outvote the others (worth 0.004 to the competition's first places).

    Args:
        models: two or more; embedders and captioners may be mixed.
        weights: one a model, not negative; equal by default.
        name: what its answers call it.
        folder: its folder, which may hold a bank; without one it uses the first model's bank.

    Attributes:
        borrows: whether it uses the first model's bank and decoder.

    Raises:
        UnpromptError: the models' target encoders differ, or the weights do not fit.
    """

    def __init__(
        self,
        models: Sequence[EmbeddingModel],
        weights: Sequence[float] | None = None,
        name: str = "",
        folder: Path | None = None,
    ):
        encoders = {model.encoder for model in models}
        if len(encoders) > 1:
            raise UnpromptError(
                f"an ensemble's models must share one target encoder; these have "
                f"{', '.join(sorted(encoders))}"
            )
        self.weights = (
            np.full(len(models), 1 / len(models)) if weights is None else np.array(weights)
        )
        if len(self.weights) != len(models) or (self.weights < 0).any() or not self.weights.any():
            raise UnpromptError(
                f"an ensemble of {len(models)} models needs as many weights, none negative and "
                f"not all 0; these are {[*map(float, self.weights)]}"
            )
        self.models = list(models)
        self.name = name or " + ".join(model.name for model in models)
        self.encoder = encoders.pop()
        self.folder = folder or models[0].folder
        self.borrows = folder is None
        self.preprocessing = JointPreprocessing(tuple(model.preprocessing for model in models))

    def run(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `EmbeddingModel.run`; the features are those of all models, each of norm 1."""
        outputs = [
            model.run(own)[:2]
            for model, own in zip(self.models, self.preprocessing.split(pixels), strict=True)
        ]
        predictions = np.stack([embeddings for embeddings, _ in outputs])
        features = np.concatenate([unit(features) for _, features in outputs], axis=1)
        return combine(predictions, self.weights), features


def combine(predictions: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean of directions.

    Args:
        predictions: float32 of shape (models, n, dim), of any norm.
        weights: of shape (models,).

    Returns:
        float32 of shape (n, dim), norm 1.
    """
    return unit(np.einsum("m,mnd->nd", weights, unit(predictions))).astype(np.float32)


def save_ensemble(models: Sequence[str], weights: np.ndarray, folder: str | Path) -> None:
    """Write an ensemble as a model folder: the models' names, and how much each counts.

    Raises:
        OutputError: the folder cannot be written.
    """
    stated = {"models": list(models), "weights": [round(float(w), 4) for w in weights]}
    write_json(Path(folder) / ENSEMBLE_FILE, stated)


def read_ensemble(folder: str | Path) -> tuple[list[str], list[float]]:
    """The models' names and weights that a folder states; folders are relative to the current one.

    Raises:
        ModelNotFoundError: the folder states no ensemble.
        UnpromptError: the file is damaged.
    """
    path = Path(folder) / ENSEMBLE_FILE
    stated = read_json(path)
    with damaged(path):
        return [*map(str, stated["models"])], [*map(float, stated["weights"])]


def shares_of(text: str) -> list[float]:
    """The numbers of a list such as ``0.3,0.7``.

    Raises:
        UnpromptError: one is no number.
    """
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise UnpromptError(f"weights '{text}': must be numbers, as 0.3,0.7") from None

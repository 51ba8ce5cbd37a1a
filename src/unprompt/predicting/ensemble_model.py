"""An ensemble: several models predict an embedding, and the ensemble takes the weighted mean."""

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
        """The largest of the models' values; see `ImagePreprocessing.least_side`."""
        return max(part.least_side for part in self.parts)

    def __call__(self, image: Image.Image) -> np.ndarray:
        """The pixels for all models, uint8 of `shape`."""
        return np.concatenate([part(image).ravel() for part in self.parts])

    @property
    def shape(self) -> tuple[int]:
        """Shape of one image's pixels: one axis with the values for all models."""
        return (sum(math.prod(shape) for shape in self._shapes),)

    @property
    def _shapes(self) -> list[tuple[int, ...]]:
        return [
            part.shape if isinstance(part, JointPreprocessing) else (3, part.size, part.size)
            for part in self.parts
        ]

    def split(self, pixels: np.ndarray) -> list[np.ndarray]:
        """Split a batch into the input of each model, uint8 (batch, 3, size, size).

        The input of a model that is an ensemble itself is (batch, values).
        """
        shapes = self._shapes
        ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
        return [
            block.reshape(len(pixels), *shape)
            for block, shape in zip(np.split(pixels, ends, axis=1), shapes, strict=True)
        ]


class EnsembleModel:
    """Several models with the same target encoder as one `EmbeddingModel`.

    Each prediction is brought to norm 1 before it is weighted, so that no model counts more because
    its predictions are longer. This gained the first places of the competition 0.004.

    Args:
        models: two or more; embedders and captioners may be mixed.
        weights: one for each model, not negative; equal by default.
        name: the ensemble's name in its answers.
        folder: its folder, which may hold a bank; without a folder, the ensemble uses the bank and
            decoder of the first model.

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
        """See `EmbeddingModel.run`; features are those of all models, concatenated at norm 1."""
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
        weights: float array of shape (models,).

    Returns:
        float32 of shape (n, dim), norm 1.
    """
    return unit(np.einsum("m,mnd->nd", weights, unit(predictions))).astype(np.float32)


def save_ensemble(models: Sequence[str], weights: np.ndarray, folder: str | Path) -> None:
    """Write an ensemble's model folder: the names of its models and their weights.

    Raises:
        OutputError: the folder cannot be written.
    """
    stated = {"models": list(models), "weights": [round(float(w), 4) for w in weights]}
    write_json(Path(folder) / ENSEMBLE_FILE, stated)


def read_ensemble(folder: str | Path) -> tuple[list[str], list[float]]:
    """Read the names and weights of an ensemble's models.

    Folders among the names are relative to the current folder.

    Raises:
        ModelNotFoundError: the folder holds no ensemble.
        UnpromptError: the file is damaged.
    """
    path = Path(folder) / ENSEMBLE_FILE
    stated = read_json(path)
    with damaged(path):
        return [*map(str, stated["models"])], [*map(float, stated["weights"])]


def shares_of(text: str) -> list[float]:
    """The numbers of a list such as ``0.3,0.7``.

    Raises:
        UnpromptError: an item is not a number.
    """
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise UnpromptError(f"weights '{text}': must be numbers, as 0.3,0.7") from None

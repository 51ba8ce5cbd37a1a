"""From a decoded image to the pixels that a model takes. Needs only numpy and Pillow."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from unprompt.errors import ModelNotFoundError, UnpromptError
from unprompt.files import atomic_open

PREPROCESSOR_FILE = "preprocessor_config.json"

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How images become model input.

    Attributes:
        size: side of the square input in pixels.
        mean: per-channel mean that the model subtracts, for values in [0, 1].
        std: per-channel standard deviation that the model divides by.
        resize: ``squash`` the whole image into the square, or ``crop`` its centre.
        crop: with ``crop``, the share of the shorter side that the square keeps.
        interpolation: resampling filter.
    """

    size: int = 224
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    resize: Literal["squash", "crop"] = "squash"
    crop: float = 1.0
    interpolation: str = "bicubic"

    @property
    def least_side(self) -> int:
        """Pixels of the shorter side that an image needs, so that nothing is scaled up."""
        return math.ceil(self.size / self.crop) if self.resize == "crop" else self.size

    def __call__(self, image: Image.Image) -> np.ndarray:
        """RGB image to uint8 pixels of shape (3, size, size); the model normalises them."""
        box = None
        if self.resize == "crop":
            side = min(image.size) * self.crop
            left, top = (image.width - side) / 2, (image.height - side) / 2
            box = (left, top, left + side, top + side)
        # `reducing_gap` lets Pillow shrink large images by whole steps first, much faster.
        square = image.resize(
            (self.size, self.size), _FILTERS[self.interpolation], box=box, reducing_gap=3.0
        )
        return np.ascontiguousarray(np.asarray(square, dtype=np.uint8).transpose(2, 0, 1))

    def save(self, folder: str | Path) -> None:
        """Write ``preprocessor_config.json``."""
        with atomic_open(Path(folder) / PREPROCESSOR_FILE) as file:
            json.dump(asdict(self), file, indent=2)
            file.write("\n")

    @classmethod
    def load(cls, folder: str | Path) -> Preprocessing:
        """Read ``preprocessor_config.json``.

        Raises:
            ModelNotFoundError: the folder has no such file.
            UnpromptError: the file is damaged, or another library's.
        """
        path = Path(folder) / PREPROCESSOR_FILE
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ModelNotFoundError(f"{path} is missing: {folder} is not a model") from None
        except ValueError as error:
            raise UnpromptError(f"{path} is damaged: {error}") from error
        try:
            return cls(**fields | {"mean": tuple(fields["mean"]), "std": tuple(fields["std"])})
        except (KeyError, TypeError) as error:
            raise UnpromptError(f"{path} is not one of unprompt's: {error}") from error

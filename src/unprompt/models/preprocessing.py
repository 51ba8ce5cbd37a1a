"""Turn a decoded image into the pixels of a model's input, with only numpy and Pillow."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from unprompt.files import write_json
from unprompt.models.model_folder import PREPROCESSOR_FILE, damaged, read_json

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
        crop: with ``crop``, the share of the shorter side that the square covers.
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
        """Shorter side in pixels from which an image need not be enlarged."""
        return math.ceil(self.size / self.crop) if self.resize == "crop" else self.size

    def __call__(self, image: Image.Image) -> np.ndarray:
        """RGB image to uint8 pixels of shape (3, size, size); the model normalises them."""
        box = None
        if self.resize == "crop":
            side = min(image.size) * self.crop
            left, top = (image.width - side) / 2, (image.height - side) / 2
            box = (left, top, left + side, top + side)
        # `reducing_gap` lets Pillow first shrink large images by whole steps, which is much faster.
        square = image.resize(
            (self.size, self.size), _FILTERS[self.interpolation], box=box, reducing_gap=3.0
        )
        return np.ascontiguousarray(np.asarray(square, dtype=np.uint8).transpose(2, 0, 1))

    def save(self, folder: str | Path) -> None:
        """Write ``preprocessor_config.json``."""
        write_json(Path(folder) / PREPROCESSOR_FILE, asdict(self))

    @classmethod
    def load(cls, folder: str | Path) -> Preprocessing:
        """Read ``preprocessor_config.json``.

        Raises:
            ModelNotFoundError: the folder has no such file.
            UnpromptError: the file is damaged, or another library wrote it.
        """
        path = Path(folder) / PREPROCESSOR_FILE
        fields = read_json(path)
        with damaged(path):
            return cls(**fields | {"mean": tuple(fields["mean"]), "std": tuple(fields["std"])})

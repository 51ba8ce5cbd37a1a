"""Pairs as a PyTorch dataset: decoded, augmented pixels and prompt embeddings."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from unprompt.errors import TableError
from unprompt.models.preprocessing import Preprocessing
from unprompt.pairs.table import PairsTable
from unprompt.training.data.augmentation import image_augmentation, pixel_augmentation
from unprompt.training.data.images import TrainingImages
from unprompt.training.data.sampling import Sample
from unprompt.training.recipe_sections import Data


class PairsDataset(Dataset[dict[str, Any]]):
    """The pairs of a table, in row order.

    Args:
        table: pairs with prompt embeddings.
        preprocessing: the model's input.
        settings: augmentation; none by default.

    The index of an item is its row, or a `Sample`, whose seed then decides the augmentation in
    every process. An item holds

    - ``pixels``, uint8 of shape (3, size, size),
    - ``labels``, the unit-norm prompt embedding, float32 of shape (dim,),
    - ``prompt``, its text,
    - ``row``, and
    - ``failure``: empty, or one line that says why the image cannot be read. Its pixels are zeros
      then, and must not be used.

    Attributes:
        images: the images; after `TrainingImages.keep` later epochs only read their pixels.

    Raises:
        TableError: a pair has no prompt embedding, or one without a direction.
    """

    def __init__(
        self,
        table: PairsTable,
        preprocessing: Preprocessing,
        settings: Data | None = None,
    ):
        norms = np.linalg.norm(table.embeddings, axis=1, keepdims=True)
        # One such embedding would turn the loss, and with it every weight, into NaN.
        useless = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
        if len(useless):
            name = table.column("id")[useless[0]]
            raise TableError(
                f"{table.name}: {len(useless)} embeddings are zero or not finite, the first that "
                f"of pair '{name}'; encode the table again"
            )
        self.table = table
        self._prompts = table.prompts
        self._labels = table.embeddings / norms
        self._preprocessing = preprocessing
        settings = settings or Data(augment="none")
        self._on_image = image_augmentation(settings, preprocessing.size)
        self.images = TrainingImages(table, preprocessing, whole=self._on_image is None)
        self._on_pixels = pixel_augmentation(settings)

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int | Sample) -> dict[str, Any]:
        if isinstance(index, Sample):
            _seed(index.seed)
        row = index.row if isinstance(index, Sample) else index
        try:
            pixels, failure = self._pixels(row), ""
        except TableError as error:
            size = self._preprocessing.size
            pixels, failure = torch.zeros(3, size, size, dtype=torch.uint8), str(error)
        labels = torch.from_numpy(self._labels[row])
        item = {"pixels": pixels, "labels": labels, "prompt": self._prompts[row]}
        return item | {"row": row, "failure": failure}

    def _pixels(self, row: int) -> torch.Tensor:
        if self._on_image is None:
            pixels = torch.from_numpy(self.images.pixels(row))
        else:
            changed = self._on_image(self.images.image(row))
            pixels = torch.from_numpy(self._preprocessing(changed))
        return pixels if self._on_pixels is None else self._on_pixels(pixels)


def _seed(seed: int) -> None:
    """Seed all that augmentations draw from: torchvision's, and timm's."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # timm draws from it

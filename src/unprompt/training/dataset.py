"""Pairs as a PyTorch dataset: decoded, augmented pixels and prompt embeddings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision.transforms import v2

from unprompt.errors import TableError
from unprompt.models.preprocessing import Preprocessing
from unprompt.pairs.table import PairsTable


class PairsDataset(Dataset[dict[str, torch.Tensor]]):
    """The pairs of a table, in row order.

    Args:
        table: pairs with prompt embeddings.
        preprocessing: the model's input.
        augment: ``none``, ``crop`` or ``mild``; see `unprompt.training.recipe.Data`.

    Each item is ``pixels``, uint8 of shape (3, size, size), and ``labels``, the unit-norm prompt
    embedding, float32 of shape (dim,).

    Raises:
        TableError: a pair has no prompt embedding, or one without a direction.
    """

    def __init__(self, table: PairsTable, preprocessing: Preprocessing, augment: str = "none"):
        norms = np.linalg.norm(table.embeddings, axis=1, keepdims=True)
        # One of them would turn the loss, and with it every weight, into NaN.
        useless = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
        if len(useless):
            name = table.column("id")[useless[0]]
            raise TableError(
                f"{table.name}: {len(useless)} embeddings are zero or not finite, that of pair "
                f"'{name}' for one; embed the table again"
            )
        self._labels = table.embeddings / norms
        self._table = table
        self._preprocessing = preprocessing
        self._augmentation = _AUGMENTATIONS[augment](preprocessing.size)

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        image = self._table.open_image(row, at_least=2 * self._preprocessing.size)
        if self._augmentation is not None:
            image = self._augmentation(image)
        pixels = torch.from_numpy(self._preprocessing(image))
        return {"pixels": pixels, "labels": torch.from_numpy(self._labels[row])}


def _crop(size: int) -> Any:
    """open_clip's default: crops of 90 to 100 % of the area."""
    return v2.RandomResizedCrop(size, scale=(0.9, 1.0), interpolation=3)


def _mild(size: int) -> Any:
    """Crops of most of the picture, and colour changes that no prompt would notice."""
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(0.6, 1.0), ratio=(0.8, 1.25), interpolation=3),
            v2.ColorJitter(brightness=0.15, contrast=0.15, saturation=0.1, hue=0.02),
        ]
    )


_AUGMENTATIONS: dict[str, Callable[[int], Any]] = {
    "none": lambda size: None,
    "crop": _crop,
    "mild": _mild,
}

"""kNN regression with a CLIP: a zero-shot embedder, as the Kaggle competition's kNN solutions were.

CLIP puts an image near the texts that describe it. So the prompts nearest to an image, among a
million known ones, say what its prompt may mean, and the mean of their prompt embeddings is a
prediction. Nothing is trained.

A model folder of its own, which ``unprompt zero-shot knn`` writes: ``keys/`` is the bank of the
CLIP's embeddings of the prompts, ``bank/`` that of the target encoder's embeddings of the same
prompts, row by row, and ``knn.json`` says how many are averaged, and how they are weighted.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unprompt.errors import MissingExtraError, UnpromptError
from unprompt.files import atomic_open
from unprompt.models.bank.bank import Bank
from unprompt.predicting.embedding_model import KNN_FILE, read_json

if TYPE_CHECKING:
    from unprompt.models.image_towers import ImageTower

KEYS_FOLDER = "keys"
NEIGHBOURS = 100
"""Prompts that are averaged."""
TEMPERATURE = 0.01
"""Of their weights: CLIP itself takes the softmax of 100 x cosine for the probability that a text
belongs to an image, the bound of its learned scale (Radford et al. 2021, arXiv 2103.00020)."""


class KnnModel:
    """An embedder that averages what is known of the prompts nearest to an image.

    Args:
        tower: the CLIP's image tower.
        keys: its text tower's embeddings of the prompts.
        values: the target encoder's embeddings of the same prompts.
        name: what answers call it.
        folder: where its bank stands.

    Attributes:
        neighbours: prompts that are averaged.
        temperature: a prompt weighs exp(cosine / temperature).

    Raises:
        UnpromptError: keys, values and tower do not belong together.
    """

    def __init__(self, tower: ImageTower, keys: Bank, values: Bank, name: str, folder: Path):
        if len(keys) != len(values):
            raise UnpromptError(
                f"{folder} is damaged: {len(keys)} keys but {len(values)} prompts; build it again"
            )
        if keys.rows.shape[1] != tower.dim:
            raise UnpromptError(
                f"{folder}: '{tower.name}' gives images {tower.dim} numbers, but its texts have "
                f"{keys.rows.shape[1]}: they share no space; name a CLIP as hf_clip/…"
            )
        self.name = name
        self.folder = folder
        self.encoder = values.encoder
        self.preprocessing = tower.preprocessing
        self.neighbours = NEIGHBOURS
        self.temperature = TEMPERATURE
        self._tower = tower
        self._keys = keys
        self._values = values

    def run(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `EmbeddingModel.run`; the features are the image tower's, of norm 1."""
        features = self._tower.features(pixels)
        embeddings = self._keys.regress(features, self.neighbours, self.temperature, self._values)
        return embeddings, features


def save_knn(folder: str | Path) -> None:
    """Write the ``knn.json`` of a model folder whose banks are there.

    Raises:
        OutputError: the folder cannot be written.
    """
    with atomic_open(Path(folder) / KNN_FILE) as file:
        json.dump({"neighbours": NEIGHBOURS, "temperature": TEMPERATURE}, file)
        file.write("\n")


def load_knn(folder: Path, name: str, device: str | None = None) -> KnnModel:
    """The model of a folder; it runs the CLIP that its keys were made by.

    Raises:
        ModelNotFoundError: the CLIP cannot be had, or a bank is missing.
        MissingExtraError: it needs torch, which is not installed.
        UnpromptError: the folder is damaged.
    """
    try:
        from unprompt.models.image_towers import create_image_tower
    except ImportError as error:
        raise MissingExtraError(error.name or "torch", "train") from error
    stated: Any = read_json(folder / KNN_FILE)
    try:
        neighbours, temperature = int(stated["neighbours"]), float(stated["temperature"])
        if neighbours < 1 or temperature <= 0:
            raise ValueError("neighbours must be at least 1 and temperature above 0")
    except (KeyError, TypeError, ValueError) as error:
        raise UnpromptError(f"{folder / KNN_FILE} is damaged: {error!r}") from error
    keys, values = Bank.load(folder / KEYS_FOLDER), Bank.load(folder)
    model = KnnModel(create_image_tower(keys.encoder, device), keys, values, name, folder)
    model.neighbours, model.temperature = neighbours, temperature
    return model

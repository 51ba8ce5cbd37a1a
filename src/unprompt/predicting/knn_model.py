"""kNN regression with a CLIP: a zero-shot embedder, as in the Kaggle competition's kNN solutions.

CLIP puts an image near the texts that describe it. So the prompts nearest to an image, among a
million known ones, show what its prompt may mean, and the weighted mean of their prompt embeddings
is a prediction. Nothing is trained.

``unprompt zero-shot knn`` writes the folder of such a model: ``keys/`` is the bank of the
CLIP's embeddings of the prompts, ``bank/`` the bank of the target encoder's embeddings of the same
prompts, row by row, and ``knn.json`` states how many prompts are averaged and how they are
weighted.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unprompt.errors import UnpromptError
from unprompt.files import write_json
from unprompt.models.bank.bank import Bank
from unprompt.models.model_folder import KEYS_FOLDER, KNN_FILE, damaged, read_json
from unprompt.predicting.options import PredictOptions

if TYPE_CHECKING:
    from unprompt.models.image_towers import ImageTower

NEIGHBOURS = 100
"""Prompts that are averaged."""
TEMPERATURE = 0.01
"""Of their weights. CLIP itself takes the softmax of 100 x cosine as the probability that a text
belongs to an image, the bound of its learned scale (Radford et al. 2021, arXiv 2103.00020)."""


class KnnModel:
    """An embedder that averages the prompt embeddings of the prompts nearest to an image.

    Args:
        tower: the CLIP's image tower.
        keys: the embeddings of the prompts by the CLIP's text tower.
        values: the embeddings of the same prompts by the target encoder.
        name: what its answers call it.
        folder: its folder, which holds the bank ``values``.
        neighbours: prompts that are averaged.
        temperature: a prompt weighs exp(cosine / temperature).

    Raises:
        UnpromptError: keys, values and tower do not belong together.
    """

    def __init__(
        self,
        tower: ImageTower,
        keys: Bank,
        values: Bank,
        name: str,
        folder: Path,
        neighbours: int = NEIGHBOURS,
        temperature: float = TEMPERATURE,
    ):
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
        self.neighbours = neighbours
        self.temperature = temperature
        self._tower = tower
        self._keys = keys
        self._values = values

    @classmethod
    def load(cls, folder: Path, name: str, options: PredictOptions) -> KnnModel:
        """The model of a folder, with the CLIP that its keys were made by.

        Args:
            folder: the model's.
            name: what its answers call it.
            options: the device, and how many prompts to average instead of the stated number.

        Raises:
            ModelNotFoundError: the CLIP is not to be had, or a bank is missing.
            UnpromptError: the folder is damaged.
        """
        from unprompt.models.image_towers import create_image_tower

        path = folder / KNN_FILE
        stated = read_json(path)
        with damaged(path):
            neighbours, temperature = int(stated["neighbours"]), float(stated["temperature"])
            if neighbours < 1 or temperature <= 0:
                raise ValueError("neighbours must be at least 1 and temperature above 0")
        keys, values = Bank.load(folder / KEYS_FOLDER), Bank.load(folder)
        tower = create_image_tower(keys.encoder, options.device)
        return cls(tower, keys, values, name, folder, options.knn or neighbours, temperature)

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
    write_json(Path(folder) / KNN_FILE, {"neighbours": NEIGHBOURS, "temperature": TEMPERATURE})

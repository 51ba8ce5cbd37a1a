"""kNN regression with a CLIP: a zero-shot embedder, as in the Kaggle competition's kNN solutions.

CLIP puts an image near the texts that describe it. The model finds the known prompts that are
nearest to an image, and predicts the weighted mean of their prompt embeddings. Nothing is trained.

``unprompt zero-shot knn`` writes the model's folder. ``keys/`` is a bank of the CLIP's embeddings
of the prompts. ``bank/`` has the target encoder's embeddings of the same prompts in the same order.
``knn.json`` states how many prompts are averaged and how they are weighted.
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
"""Temperature of their weights. CLIP itself takes the softmax of cosine / 0.01 as the probability
of a text; 1 / 0.01 bounds its learned scale (Radford et al. 2021, arXiv 2103.00020)."""


class KnnModel:
    """An embedder that averages the prompt embeddings of the prompts nearest to an image.

    Args:
        tower: the CLIP's image tower.
        keys: the embeddings of the prompts by the CLIP's text tower.
        values: the embeddings of the same prompts by the target encoder.
        name: the model's name in its answers.
        folder: its folder, which holds the bank ``values``.
        neighbours: number of prompts that are averaged.
        temperature: a prompt has the weight exp(cosine / temperature).

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
                f"{keys.rows.shape[1]}, so the two cannot be compared; name a CLIP as hf_clip/…"
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
        """Load the model of a folder, and the CLIP that made its keys.

        Args:
            folder: folder of the model.
            name: the model's name in its answers.
            options: the device, and ``knn``, the number of prompts to average.

        Raises:
            ModelNotFoundError: the CLIP cannot be found or downloaded, or a bank is missing.
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
    """Write the ``knn.json`` of a model folder that has its banks.

    Raises:
        OutputError: the folder cannot be written.
    """
    write_json(Path(folder) / KNN_FILE, {"neighbours": NEIGHBOURS, "temperature": TEMPERATURE})

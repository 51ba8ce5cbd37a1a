"""Features of a frozen backbone, computed once for each image and kept on disk."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch

from unprompt.errors import UnpromptError
from unprompt.evaluating.metrics import cosines
from unprompt.models.embedder import Embedder
from unprompt.models.fingerprint import fingerprint
from unprompt.pairs.table import PairsTable
from unprompt.predicting.embedding_model import TorchModel
from unprompt.predicting.image_batches import embed_images
from unprompt.training.data.chunk_cache import (
    Arrays,
    fingerprint_of_images,
    in_chunks,
    readable,
)


@dataclass(frozen=True)
class Features:
    """Features of those images of a table that can be decoded.

    Attributes:
        table: the table.
        values: float32 of shape (n, width).
        rows: the table's row of each, int64, ascending.
        failures: a line for each image that cannot be decoded.
    """

    table: PairsTable = field(repr=False)
    values: np.ndarray
    rows: np.ndarray
    failures: list[str]

    @property
    def embeddings(self) -> np.ndarray:
        """The prompt embedding of each row, float32 of shape (n, dim)."""
        return self.table.embeddings[self.rows]


def features_of(model: Embedder, table: PairsTable, batch_size: int = 64) -> Features:
    """The backbone's features of a table's images, without augmentation.

    They are kept in `unprompt.files.cache_dir`, under a name made of the backbone's weights, the
    preprocessing and the images, so that a second call, also of another run, only reads them.

    Args:
        model: only its backbone is used, on a GPU where there is one. Afterwards the model is in
            its former mode and on its former device.
        table: the pairs.
        batch_size: images a batch.

    Raises:
        TableError: no image can be decoded.
        OutputError: the cache cannot be written.
    """
    name = fingerprint(
        asdict(model.architecture.backbone),
        asdict(model.preprocessing),
        model.preprocessing.least_side,
        model.backbone,
        fingerprint_of_images(table),
    )
    training, device = model.training, model.mean.device
    model.eval()
    frozen = TorchModel(model, "frozen backbone", Path())

    def make(rows: range) -> Arrays:
        model.to("cuda" if torch.cuda.is_available() else device)
        # As `evaluate` and `predict` open them.
        at_least = model.preprocessing.least_side
        openers = (partial(table.open_image, row, at_least) for row in rows)
        values = np.zeros((len(rows), model.backbone.dim), np.float32)
        failures = [""] * len(rows)
        for place, output in enumerate(embed_images(frozen, openers, batch_size)):
            if isinstance(output, UnpromptError):
                failures[place] = str(output)
            else:
                values[place] = output[1]
        return {"features": values, "failures": np.array(failures)}

    try:
        chunks = list(in_chunks("features", name, len(table), make, "Features"))
    finally:
        model.to(device).train(training)
    failures = [str(line) for chunk, _ in chunks for line in np.load(chunk / "failures.npy")]
    rows = readable(table.name, failures)
    values = np.concatenate([np.load(chunk / "features.npy") for chunk, _ in chunks])
    return Features(table, values[rows], rows, [line for line in failures if line])


def head_score(model: Embedder, features: Features) -> float:
    """Mean cosine between the head's embeddings of features and those of the true prompts."""
    training = model.training
    with torch.inference_mode():
        values = torch.from_numpy(features.values).to(model.mean.device)
        predicted = model.eval().embed(values).cpu().numpy()
    model.train(training)
    return float(cosines(predicted, features.embeddings).mean())

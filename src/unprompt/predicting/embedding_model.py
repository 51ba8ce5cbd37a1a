"""Embedders for prediction: on ONNX Runtime, which needs no torch, or on torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

from unprompt.models.model_folder import CONFIG_FILE, ONNX_FILE, damaged, read_json
from unprompt.models.preprocessing import Preprocessing
from unprompt.predicting.options import PredictOptions

if TYPE_CHECKING:
    from unprompt.models.embedder import Embedder


class ImagePreprocessing(Protocol):
    """Makes the uint8 pixels of a model's input from an image."""

    @property
    def size(self) -> int:
        """Side of the model's input in pixels."""
        ...

    @property
    def least_side(self) -> int:
        """Shorter side in pixels from which an image need not be enlarged."""
        ...

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Pixels of one image."""
        ...


class EmbeddingModel(Protocol):
    """A loaded model that predicts prompt embeddings from pixels.

    Attributes:
        name: the model's name in its answers.
        encoder: the target encoder whose embeddings it predicts.
        folder: its folder, which may hold its bank and decoder.
    """

    name: str
    encoder: str
    folder: Path

    @property
    def preprocessing(self) -> ImagePreprocessing:
        """How images become the model's input."""
        ...

    def run(self, pixels: np.ndarray) -> tuple[Any, ...]:
        """Run a batch of preprocessed images.

        Returns:
            Embeddings (batch, dim) and features (batch, width), float32. A model may return more
            items, such as the caption of each image.
        """
        ...


class OnnxModel:
    """An exported embedder on ONNX Runtime; for errors see `Preprocessing.load`."""

    def __init__(self, folder: Path, name: str):
        import onnxruntime

        self.name = name
        self.folder = folder
        self.preprocessing = Preprocessing.load(folder)
        config = read_json(folder / CONFIG_FILE)
        with damaged(folder / CONFIG_FILE):
            self.encoder = str(config["encoder"])
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # Threads that spin between two runs would slow the threads that decode the next images.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            folder / ONNX_FILE, options, providers=onnxruntime.get_available_providers()
        )

    def run(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `EmbeddingModel.run`."""
        embeddings, features = self._session.run(["embedding", "features"], {"pixels": pixels})
        return embeddings, features


class TorchModel:
    """A trained embedder on torch."""

    def __init__(self, embedder: Embedder, name: str, folder: Path):
        self._embedder = embedder
        self.name = name
        self.folder = folder
        self.preprocessing = embedder.preprocessing
        self.encoder = embedder.architecture.encoder

    @classmethod
    def load(cls, place: str | Path, name: str, options: PredictOptions) -> TorchModel:
        """Load from a folder or the hub; for errors see `Embedder.from_pretrained`."""
        import torch

        from unprompt.devices import choose_device
        from unprompt.models.embedder import Embedder

        embedder = Embedder.from_pretrained(place, choose_device(options.device))
        # Convolutions run faster on this memory format; for other layers it makes no difference.
        embedder.to(memory_format=torch.channels_last)
        return cls(embedder, name, Path(place))

    def run(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `EmbeddingModel.run`."""
        import torch

        with torch.inference_mode():
            batch = torch.from_numpy(pixels).to(self._embedder.mean.device)
            features = self._embedder.features(batch)
            embeddings = self._embedder.embed(features)
        return embeddings.float().cpu().numpy(), features.float().cpu().numpy()

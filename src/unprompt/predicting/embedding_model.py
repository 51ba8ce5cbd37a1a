"""Embedders ready to run, on ONNX Runtime without torch, or on torch."""

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
    """From an image to the uint8 pixels that a model runs on."""

    @property
    def size(self) -> int:
        """Side of the model's input in pixels."""
        ...

    @property
    def least_side(self) -> int:
        """Pixels of the shorter side that an image needs, so that nothing is scaled up."""
        ...

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Pixels of one image."""
        ...


class EmbeddingModel(Protocol):
    """A model from pixels to prompt embeddings, ready to run.

    Attributes:
        name: what its answers call it.
        encoder: the target encoder whose embeddings it predicts.
        folder: its folder, where its bank and decoder may stand.
    """

    name: str
    encoder: str
    folder: Path

    @property
    def preprocessing(self) -> ImagePreprocessing:
        """How images become its input."""
        ...

    def run(self, pixels: np.ndarray) -> tuple[Any, ...]:
        """Run a batch of preprocessed images.

        Returns:
            Embeddings (batch, dim) and features (batch, width), float32. Further items are further
            outputs for each image, such as a captioner's captions.
        """
        ...


class OnnxModel:
    """An exported embedder, which needs ONNX Runtime only; raises as `Preprocessing.load`."""

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
        # Threads that spin between two runs would take the cores that decode the next images.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            folder / ONNX_FILE, options, providers=onnxruntime.get_available_providers()
        )

    def run(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `EmbeddingModel.run`."""
        embeddings, features = self._session.run(["embedding", "features"], {"pixels": pixels})
        return embeddings, features


class TorchModel:
    """An embedder as it is trained."""

    def __init__(self, embedder: Embedder, name: str, folder: Path):
        self._embedder = embedder
        self.name = name
        self.folder = folder
        self.preprocessing = embedder.preprocessing
        self.encoder = embedder.architecture.encoder

    @classmethod
    def load(cls, place: str | Path, name: str, options: PredictOptions) -> TorchModel:
        """Load from a folder or the hub; raises as `Embedder.from_pretrained`."""
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

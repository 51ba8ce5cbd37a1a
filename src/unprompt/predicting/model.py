"""Loaded embedders behind one face: ONNX Runtime without torch, or torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from unprompt.errors import MissingExtraError, ModelNotFoundError, UnpromptError
from unprompt.models.preprocessing import Preprocessing

BUILTIN = "builtin"
ONNX_FILE = "model.onnx"
DECODING_THREADS = 4

Opener = Callable[[], Image.Image]
"""Opens and decodes one image; raises `UnpromptError` where it cannot."""


class EmbeddingModel(Protocol):
    """A model from pixels to prompt embeddings, ready to run."""

    name: str
    encoder: str
    folder: Path
    preprocessing: Preprocessing

    def run(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 pixels (batch, 3, size, size) to embeddings (batch, dim) and features, float32."""
        ...


class OnnxModel:
    """An exported embedder; needs ONNX Runtime only."""

    def __init__(self, folder: Path, name: str):
        import onnxruntime

        self.name = name
        self.folder = folder
        self.preprocessing = Preprocessing.load(folder)
        self.encoder = str(read_config(folder)["encoder"])
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            folder / ONNX_FILE, options, providers=onnxruntime.get_available_providers()
        )

    def run(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `EmbeddingModel.run`."""
        embeddings, features = self._session.run(["embedding", "features"], {"pixels": pixels})
        return embeddings, features


class TorchModel:
    """An embedder as it was trained."""

    def __init__(self, name_or_folder: str | Path, name: str, device: str | None = None):
        try:
            import torch

            from unprompt.models.embedder import Embedder
        except ImportError as error:
            raise MissingExtraError(error.name or "torch", "train") from error
        self._torch = torch
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._embedder = Embedder.from_pretrained(name_or_folder, self._device)
        self.name = name
        self.folder = Path(name_or_folder)
        self.preprocessing = self._embedder.preprocessing
        self.encoder = self._embedder.architecture.encoder

    def run(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `EmbeddingModel.run`."""
        with self._torch.inference_mode():
            batch = self._torch.from_numpy(pixels).to(self._device)
            features = self._embedder.features(batch)
            embeddings = self._embedder.embed(features)
        return embeddings.float().cpu().numpy(), features.float().cpu().numpy()


def load_model(name: str | Path = BUILTIN, device: str | None = None) -> EmbeddingModel:
    """Load an embedder.

    Args:
        name: ``builtin``, the folder of an exported or trained model, or a hub repository.
        device: ``cpu`` or ``cuda``, for models that run on torch; chosen by what is there.

    Raises:
        ModelNotFoundError: there is no such model.
        MissingExtraError: it needs torch, which is not installed.
    """
    folder = Path(__file__).parent / "builtin" if str(name) == BUILTIN else Path(name)
    if (folder / ONNX_FILE).is_file():
        return OnnxModel(folder, str(name))
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ModelNotFoundError(
            f"{folder}: holds neither {ONNX_FILE} nor config.json: not a model"
        )
    return TorchModel(folder if folder.is_dir() else str(name), str(name), device)


def read_config(folder: Path) -> dict[str, object]:
    """The model's ``config.json``.

    Raises:
        ModelNotFoundError: it is missing.
    """
    try:
        config: dict[str, object] = json.loads((folder / "config.json").read_text("utf-8"))
    except FileNotFoundError:
        raise ModelNotFoundError(f"{folder / 'config.json'} is missing: not a model") from None
    return config


def embed_images(
    model: EmbeddingModel, openers: Iterable[Opener], batch_size: int = 16
) -> Iterator[tuple[np.ndarray, np.ndarray] | UnpromptError]:
    """Run images through a model in batches, decoding ahead in threads.

    Yields:
        For each image, in order, its embedding (dim,) and features, or the error that says why
        it could not be decoded. At most two batches of images are held at a time.
    """

    def decode(opener: Opener) -> np.ndarray | UnpromptError:
        try:
            return model.preprocessing(opener())
        except UnpromptError as error:
            return error

    with ThreadPoolExecutor(DECODING_THREADS) as pool:
        remaining = iter(openers)
        waiting: list[Future[np.ndarray | UnpromptError]] = []
        while True:
            decoding = [pool.submit(decode, opener) for opener in islice(remaining, batch_size)]
            yield from _run(model, [future.result() for future in waiting])
            if not decoding:
                return
            waiting = decoding


def _run(
    model: EmbeddingModel, decoded: list[np.ndarray | UnpromptError]
) -> Iterator[tuple[np.ndarray, np.ndarray] | UnpromptError]:
    pixels = [item for item in decoded if isinstance(item, np.ndarray)]
    outputs = iter(zip(*model.run(np.stack(pixels)), strict=True) if pixels else ())
    for item in decoded:
        yield next(outputs) if isinstance(item, np.ndarray) else item

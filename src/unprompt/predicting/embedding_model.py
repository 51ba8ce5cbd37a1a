"""Loaded embedders behind one face: ONNX Runtime without torch, or torch."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from PIL import Image

from unprompt.errors import MissingExtraError, ModelNotFoundError, UnpromptError
from unprompt.models.preprocessing import Preprocessing
from unprompt.parallel import cores
from unprompt.predicting import loading as kinds
from unprompt.predicting import public_weights as public

if TYPE_CHECKING:
    from unprompt.models.embedder import Embedder

BUILTIN = "builtin"
ONNX_FILE = "model.onnx"
ENSEMBLE_FILE = "ensemble.json"
KNN_FILE = "knn.json"
INTERROGATOR_FILE = "interrogator.json"
DECODER_TYPE = "unprompt-decoder"
DECODING_THREADS = min(4, cores())

Label = TypeVar("Label")
Opener = Callable[[], Image.Image]
"""Opens and decodes one image; raises `UnpromptError` where it cannot."""


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
    """A model from pixels to prompt embeddings, ready to run."""

    name: str
    encoder: str
    folder: Path

    @property
    def preprocessing(self) -> ImagePreprocessing:
        """How it takes images."""
        ...

    def run(self, pixels: np.ndarray) -> tuple[Any, ...]:
        """A batch of preprocessed images to embeddings (batch, dim) and features, float32.

        What else a model has to say of each image, as a captioner its caption, comes after them.
        """
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
    def load(cls, name_or_folder: str | Path, name: str, device: str | None = None) -> TorchModel:
        """Load from a folder or the hub; raises as `load_model`."""
        try:
            import torch

            from unprompt.models.embedder import Embedder
        except ImportError as error:
            raise MissingExtraError(error.name or "torch", "train") from error
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        embedder = Embedder.from_pretrained(name_or_folder, device)
        # Convolutions run faster on this layout; for everything else it makes no difference.
        embedder.to(memory_format=torch.channels_last)
        return cls(embedder, name, Path(name_or_folder))

    def run(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `EmbeddingModel.run`."""
        import torch

        with torch.inference_mode():
            batch = torch.from_numpy(pixels).to(self._embedder.mean.device)
            features = self._embedder.features(batch)
            embeddings = self._embedder.embed(features)
        return embeddings.float().cpu().numpy(), features.float().cpu().numpy()


def builtin_folder() -> Path:
    """Where the model that the package carries stands."""
    return Path(__file__).parent / BUILTIN


def load_onnx(folder: str | Path, name: str, device: str | None = None) -> OnnxModel:
    """Load an exported embedder; it runs where ONNX Runtime does."""
    return OnnxModel(Path(folder), name)


def load_torch(folder: str | Path, name: str, device: str | None = None) -> TorchModel:
    """Load an embedder as it is trained; raises as `TorchModel.load`."""
    return TorchModel.load(folder, name, device)


def load_model(name: str | Path = BUILTIN, device: str | None = None) -> EmbeddingModel:
    """Load a model of any of `unprompt.predicting.loading`.

    Args:
        name: ``builtin``, the folder of a model, a hub repository, or a name of another library's
            with its prefix.
        device: ``cpu`` or ``cuda``, for models that run on torch; chosen by what is there.

    Raises:
        ModelNotFoundError: there is no such model. If `predicting.public_weights` lists it,
            the message states its size and how to get it.
        MissingExtraError: it needs torch, which is not installed.
    """
    folder = builtin_folder() if str(name) == BUILTIN else Path(name)
    place = folder if folder.is_dir() else str(name)
    with public.advice(str(name)):
        model: EmbeddingModel = kinds.loader_of(place)(place, str(name), device)
    return model


def is_decoder(name: str | Path) -> bool:
    """Whether a folder holds a decoder as it is trained."""
    folder = Path(name)
    return (folder / "config.json").is_file() and (
        read_config(folder).get("model_type") == DECODER_TYPE
    )


def read_config(folder: Path) -> dict[str, object]:
    """The model's ``config.json``; raises as `read_json`."""
    return read_json(folder / "config.json")


def read_json(path: Path) -> dict[str, object]:
    """A JSON object that a model's folder holds.

    Raises:
        ModelNotFoundError: it is missing.
        UnpromptError: it is damaged.
    """
    try:
        stated: dict[str, object] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ModelNotFoundError(f"{path} is missing: not a model") from None
    except ValueError as error:
        raise UnpromptError(f"{path} is damaged: {error}; write it again") from error
    return stated


def embed_images(
    model: EmbeddingModel, openers: Iterable[Opener], batch_size: int = 16
) -> Iterator[tuple[Any, ...] | UnpromptError]:
    """Run images through a model.

    Yields:
        For each image, in order, its row of what `EmbeddingModel.run` gives, or the error that
        says why it could not be decoded.
    """

    def prepare(opener: Opener) -> tuple[UnpromptError | None, np.ndarray | None]:
        try:
            return None, model.preprocessing(opener())
        except UnpromptError as error:
            return error, None

    preparations = (partial(prepare, opener) for opener in openers)
    batches = run_batches(model.run, preparations, batch_size, lambda: may_overlap(model))
    for error, output in batches:
        if error is not None:
            yield error
        if output is not None:
            yield output


def may_overlap(model: EmbeddingModel) -> bool:
    """Whether two batches may run at the same time; torch takes all cores and twice the memory."""
    return isinstance(model, OnnxModel)


def run_batches(
    run: Callable[[np.ndarray], tuple[Any, ...]],
    preparations: Iterable[Callable[[], tuple[Label, np.ndarray | None]]],
    batch_size: int,
    may_overlap: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[Label, tuple[Any, ...] | None]]:
    """Prepare pixels ahead in threads and run them in batches.

    Args:
        run: as `EmbeddingModel.run`.
        preparations: each gives a label, and the pixels of one image, uint8 of shape
            (3, size, size), or None when there is nothing to run.
        batch_size: items a batch; at most three batches are held at a time.
        may_overlap: whether two batches may run at the same time, which keeps every core at work
            where one batch cannot; asked once there are pixels.

    Yields:
        For each item, in order, its label, and its row of the outputs of ``run`` or None.
    """
    remaining = iter(preparations)
    stopped, turn = Event(), Lock()

    def finish(
        preparing: list[Future[tuple[Label, np.ndarray | None]]],
    ) -> list[tuple[Label, tuple[Any, ...] | None]]:
        prepared = [future.result() for future in preparing]
        batch = [pixels for _, pixels in prepared if pixels is not None]
        rows: Iterator[tuple[Any, ...]] = iter(())
        if batch:
            with nullcontext() if may_overlap() else turn:
                if stopped.is_set():
                    return []
                rows = zip(*run(np.stack(batch)), strict=True)
        return [(label, None if pixels is None else next(rows)) for label, pixels in prepared]

    with ThreadPoolExecutor(DECODING_THREADS) as decoding, ThreadPoolExecutor(2) as running:

        def batches() -> Iterator[Future[list[tuple[Label, tuple[Any, ...] | None]]]]:
            while items := [decoding.submit(item) for item in islice(remaining, batch_size)]:
                yield running.submit(finish, items)

        coming = batches()
        held = deque(islice(coming, 3))
        try:
            while held:
                yield from held.popleft().result()
                held.extend(islice(coming, 1))
        finally:
            # Whoever stops waits for the batch under way and no other.
            stopped.set()

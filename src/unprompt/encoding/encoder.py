"""The prompt encoder: it turns texts into unit-norm embeddings."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from unprompt.devices import choose_device
from unprompt.encoding.encoder_config import EncoderConfig, EncoderError, read_encoder_config
from unprompt.encoding.onnx_backend import is_supported
from unprompt.encoding.sources import DEFAULT_ENCODER, find_source
from unprompt.encoding.tokens import Batch, batches, load_tokenizer, tokenize
from unprompt.errors import MissingExtraError
from unprompt.parallel import Item, Result
from unprompt.progress import track

BACKENDS = ("auto", "torch", "onnx")
PRECISIONS = ("auto", "fp32", "bf16", "int8")
_OFFERED = {"torch": ("fp32", "bf16"), "onnx": ("fp32", "int8")}

_WINDOW = 65_536
"""Number of texts that are tokenised and sorted by length at a time, to bound memory."""


class Network(Protocol):
    """A backend: token ids to pooled embeddings."""

    max_tokens: int
    """Most tokens in a batch."""

    def in_order(self, task: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield the results of ``task``, which calls this network, in the order of the items."""
        ...

    def __call__(self, ids: np.ndarray) -> np.ndarray:
        """Token ids, int64 of shape (n, length), to float32 of shape (n, dim)."""
        ...


class PromptEncoder:
    """A sentence-transformers model that turns prompts into unit-norm embeddings.

    `load_encoder` makes it. The first call of `encode` loads the weights, so they are not loaded if
    all prompts are in the cache.

    Attributes:
        name: the hub id or path that was given to `load_encoder`.
        backend: ``torch`` or ``onnx``.
        precision: ``fp32``, ``bf16`` or ``int8``.
        device: torch device, such as ``cpu`` or ``cuda``.
        dim: width of an embedding.
    """

    def __init__(self, name: str, config: EncoderConfig, backend: str, precision: str, device: str):
        self.name = name
        self.config = config
        self.backend = backend
        self.precision = precision
        self.device = device
        self.dim = config.dim

    def __repr__(self) -> str:
        return f"PromptEncoder({self.name!r}, {self.backend}, {self.precision}, {self.device})"

    @cached_property
    def fingerprint(self) -> str:
        """Name, precision, and a hash of weights and settings, as part of a file name.

        Encoders with the same fingerprint give the same embeddings. Both backends share one in
        fp32, where they agree to 1e-5.
        """
        precision = f"{self.backend}-int8" if self.precision == "int8" else self.precision
        label = re.sub(r"[^A-Za-z0-9.]+", "-", Path(self.name).name).strip("-")[-48:]
        return f"{label}-{precision}-{self.config.identity}"

    @cached_property
    def _tokenizer(self) -> Any:
        return load_tokenizer(self.config)

    @cached_property
    def _network(self) -> Network:
        if self.backend == "onnx":
            from unprompt.encoding.onnx_backend import OnnxNetwork

            return OnnxNetwork(self.config, self.precision)
        from unprompt.encoding.torch_backend import TorchNetwork

        return TorchNetwork(self.config, self.precision, self.device)

    def encode(self, texts: Sequence[str], batch_size: int = 256) -> np.ndarray:
        """Encode texts, without the cache.

        Args:
            texts: prompts, which may be empty strings.
            batch_size: prompts in a batch, at most; batches of long prompts are smaller.

        Returns:
            float32 of shape (n, dim), rows of norm 1, in the order of ``texts``.

        Raises:
            TypeError: an item is not a string.
        """
        texts = checked(texts)
        result = np.empty((len(texts), self.dim), dtype=np.float32)
        encoded = self.stream(texts, batch_size)
        for row, vector in track(encoded, "Encoding", total=len(texts)):
            result[row] = vector
        return result

    def stream(
        self, texts: Sequence[str], batch_size: int = 256
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (row, embedding) of each text, the longest text first."""
        for start in range(0, len(texts), _WINDOW):
            ids = tokenize(self._tokenizer, self.config, texts[start : start + _WINDOW])
            work = batches(ids, batch_size, self._network.max_tokens)
            for batch, vectors in self._network.in_order(self._encode_batch, work):
                yield from zip((batch.rows + start).tolist(), vectors, strict=True)

    def _encode_batch(self, batch: Batch) -> tuple[Batch, np.ndarray]:
        pooled = self._network(batch.ids)
        norms = np.linalg.norm(pooled, axis=1, keepdims=True)
        return batch, pooled / np.maximum(norms, np.float32(1e-12))


def load_encoder(
    name: str = DEFAULT_ENCODER,
    backend: str = "auto",
    precision: str = "auto",
    device: str | None = None,
) -> PromptEncoder:
    """Load a prompt encoder.

    Args:
        name: hub id of a sentence-transformers model, or path of its folder;
            `unprompt.encoding.sources.find_source` lists the places that are searched.
        backend: ``torch``; ``onnx``, which runs on the CPU and needs no torch; or ``auto``, the
            fastest one that can run the model in this precision.
        precision: ``fp32`` is exact: use it for scores that must be the same on every machine.
            ``bf16`` needs torch. ``int8`` needs onnx; it is the fastest, and its mean cosine to
            fp32 is about 0.993. ``auto`` is the fastest precision whose mean cosine to fp32 is at
            least 0.9999, which is enough for near-duplicates and search: bf16 if torch is installed
            and the processor multiplies in bf16, else fp32.
        device: torch device; by default ``cuda`` if there is one, else ``cpu``.

    Raises:
        ModelNotFoundError: the weights were not found.
        EncoderError: the model is damaged or not supported, or the backend does not have the
            precision or the device.
        MissingExtraError: the backend is not installed.
    """
    if backend not in BACKENDS or precision not in PRECISIONS:
        raise EncoderError(
            f"backend '{backend}' with precision '{precision}': a backend is one of "
            f"{', '.join(BACKENDS)}; a precision is one of {', '.join(PRECISIONS)}"
        )
    config = read_encoder_config(find_source(name))
    return PromptEncoder(name, config, *_choose(config, backend, precision, device))


def _choose(
    config: EncoderConfig, backend: str, precision: str, device: str | None
) -> tuple[str, str, str]:
    """Replace ``auto`` and None by a backend, a precision and a device that are available."""
    if backend != "auto" and precision not in ("auto", *_OFFERED[backend]):
        raise EncoderError(f"the {backend} backend has no precision {precision}")
    on_cpu = device in (None, "cpu")
    if not on_cpu and (backend == "onnx" or precision == "int8"):
        subject = "precision int8" if precision == "int8" else "the onnx backend"
        raise EncoderError(f"{subject} runs on the CPU, not on '{device}'")
    if backend == "onnx" or precision == "int8":
        return "onnx", precision.replace("auto", "fp32"), "cpu"
    if not _has_torch():
        if backend == "torch" or precision == "bf16" or not on_cpu:
            raise MissingExtraError("torch and transformers", "train")
        return "onnx", "fp32", "cpu"
    from unprompt.encoding.torch_backend import multiplies_in_bf16

    device = choose_device(device)
    if precision == "auto":
        precision = "bf16" if multiplies_in_bf16(device) else "fp32"
    if backend == "auto" and precision == "fp32" and device == "cpu" and is_supported(config):
        return "onnx", "fp32", "cpu"
    return "torch", precision, device


def _has_torch() -> bool:
    return all(importlib.util.find_spec(name) for name in ("torch", "transformers"))


def checked(texts: Sequence[str]) -> list[str]:
    """The texts as a list.

    Raises:
        TypeError: ``texts`` is one string, or an item is not a string.
    """
    if isinstance(texts, str):
        raise TypeError("prompts must be a sequence of strings, not one string")
    texts = list(texts)
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"prompts must be strings; item {row} is {text!r}")
    return texts

"""The prompt encoder: texts in, unit-norm embeddings out."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from unprompt.encoding.layout import EncoderError, Layout, read_layout
from unprompt.encoding.sources import DEFAULT_ENCODER, find_source
from unprompt.encoding.tokens import Batch, batches, load_tokenizer, tokenize
from unprompt.errors import MissingExtraError
from unprompt.parallel import in_order
from unprompt.progress import track

BACKENDS = ("auto", "torch", "onnx")
PRECISIONS = ("auto", "fp32", "bf16", "int8")

_WINDOW = 65_536
"""Texts that are tokenised and sorted by length at a time, so that millions fit in memory."""


class Network(Protocol):
    """Token ids to pooled embeddings, on some backend."""

    max_tokens: int
    workers: int
    """Batches that it is given at once, each in a thread of its own."""

    def __call__(self, ids: np.ndarray) -> np.ndarray:
        """Token ids, int64 of shape (n, length), to float32 of shape (n, dim)."""
        ...


class PromptEncoder:
    """A sentence-transformers model that turns prompts into unit-norm embeddings.

    Made by `load_encoder`. The weights are loaded at the first `encode`, so that a caller whose
    prompts are all in the cache never waits for them.

    Attributes:
        name: the name or path that it was loaded by.
        backend: ``torch`` or ``onnx``.
        precision: ``fp32``, ``bf16`` or ``int8``.
        device: torch device, such as ``cpu`` or ``cuda``.
        dim: width of an embedding.
    """

    def __init__(self, name: str, layout: Layout, backend: str, precision: str, device: str):
        self.name = name
        self.layout = layout
        self.backend = backend
        self.precision = precision
        self.device = device
        self.dim = layout.dim

    def __repr__(self) -> str:
        return f"PromptEncoder({self.name!r}, {self.backend}, {self.precision}, {self.device})"

    @cached_property
    def fingerprint(self) -> str:
        """What embeddings depend on: name, precision, and a hash of weights and settings.

        A string fit for a file name. The same for both backends in fp32, whose embeddings are
        the same to 1e-5.
        """
        label = re.sub(r"[^A-Za-z0-9.]+", "-", Path(self.name).name).strip("-")[-48:]
        return f"{label}-{self.precision}-{self.layout.identity}"

    @cached_property
    def _tokenizer(self) -> Any:
        return load_tokenizer(self.layout)

    @cached_property
    def _network(self) -> Network:
        if self.backend == "onnx":
            from unprompt.encoding.onnx_backend import OnnxNetwork

            return OnnxNetwork(self.layout, self.precision)
        from unprompt.encoding.torch_backend import TorchNetwork

        return TorchNetwork(self.layout, self.precision, self.device)

    def encode(
        self, texts: Sequence[str], batch_size: int = 256, progress: bool = False
    ) -> np.ndarray:
        """Encode texts, without the cache.

        Args:
            texts: prompts; the empty string is one too.
            batch_size: prompts in a batch, at most; long ones come in smaller batches.
            progress: show a bar.

        Returns:
            float32 of shape (n, dim), rows of norm 1, in the order of ``texts``.

        Raises:
            TypeError: an item is not a string.
        """
        texts = checked(texts)
        result = np.empty((len(texts), self.dim), dtype=np.float32)
        encoded = self.stream(texts, batch_size)
        for row, vector in track(encoded, "Encoding", total=len(texts), show=progress):
            result[row] = vector
        return result

    def stream(
        self, texts: Sequence[str], batch_size: int = 256
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (row, embedding) for each text as it is done: not in order, but by length."""
        for start in range(0, len(texts), _WINDOW):
            ids = tokenize(self._tokenizer, self.layout, texts[start : start + _WINDOW])
            work = batches(ids, batch_size, self._network.max_tokens)
            for batch, vectors in in_order(self._encode_batch, work, self._network.workers):
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
        name: hub id of a sentence-transformers model, or path of its folder; see
            `unprompt.encoding.sources.find_source` for where it is looked for.
        backend: ``torch``; ``onnx``, which works without torch, on the CPU; or ``auto``, the
            faster one that runs the model in the precision: on the CPU onnx, but for bf16.
        precision: ``fp32`` is exact: what scores are computed from wants it, so that they are
            the same on every machine. ``bf16`` is for torch, ``int8`` for onnx and fastest, at
            a mean cosine to fp32 of about 0.993. ``auto`` takes the fastest whose mean cosine
            to fp32 is at least 0.9999, enough for near-duplicates and search: bf16 where torch
            finds instructions for it, else fp32.
        device: torch device; by default ``cuda`` where there is one, else ``cpu``.

    Raises:
        ModelNotFoundError: the weights are nowhere to be found.
        EncoderError: the model is damaged or of an unsupported kind, or backend, precision and
            device do not go together.
        MissingExtraError: the backend is not installed.
    """
    if backend not in BACKENDS or precision not in PRECISIONS:
        raise EncoderError(
            f"backend '{backend}' with precision '{precision}': a backend is one of "
            f"{', '.join(BACKENDS)}; a precision is one of {', '.join(PRECISIONS)}"
        )
    layout = read_layout(find_source(name))
    return PromptEncoder(name, layout, *_choose(layout, backend, precision, device))


def _choose(
    layout: Layout, backend: str, precision: str, device: str | None
) -> tuple[str, str, str]:
    """Backend, precision and device that are meant, none of them ``auto``, and there."""
    if backend == "auto" and precision == "int8":
        backend = "onnx"
    elif backend == "auto" and (precision == "bf16" or device not in (None, "cpu")):
        backend = "torch"
    elif backend == "auto" and not _has_torch():
        backend = "onnx"
    if precision == {"torch": "int8", "onnx": "bf16"}.get(backend):
        raise EncoderError(f"the {backend} backend has no precision {precision}")
    if backend == "onnx":
        if device not in (None, "cpu"):
            raise EncoderError(f"the onnx backend runs on the CPU, not on '{device}'")
        return "onnx", precision.replace("auto", "fp32"), "cpu"
    if not _has_torch():
        raise MissingExtraError("torch and transformers", "train")
    import torch

    from unprompt.encoding.onnx_backend import is_supported
    from unprompt.encoding.torch_backend import multiplies_in_bf16

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if precision == "auto":
        precision = "bf16" if multiplies_in_bf16(device) else "fp32"
    if backend == "auto":
        fast = (device, precision) == ("cpu", "fp32") and is_supported(layout)
        backend = "onnx" if fast else "torch"
    return backend, precision, device


def _has_torch() -> bool:
    return all(importlib.util.find_spec(name) for name in ("torch", "transformers"))


def checked(texts: Sequence[str]) -> list[str]:
    """The texts as a list.

    Raises:
        TypeError: it is one string, or an item is not a string.
    """
    if isinstance(texts, str):
        raise TypeError("prompts must be a sequence of strings, not one string")
    texts = list(texts)
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"prompts must be strings; item {row} is {text!r}")
    return texts

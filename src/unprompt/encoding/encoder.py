"""The prompt encoder: texts in, unit-norm embeddings out."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from unprompt.encoding.bert import is_supported
from unprompt.encoding.encoder_config import EncoderError, Layout, read_layout
from unprompt.encoding.sources import DEFAULT_ENCODER, find_source
from unprompt.encoding.tokens import Batch, batches, load_tokenizer, tokenize
from unprompt.errors import MissingExtraError, need
from unprompt.parallel import in_order
from unprompt.progress import track

BACKENDS = ("auto", "torch", "onnx", "numba")
PRECISIONS = ("auto", "fp32", "bf16", "int16", "int8")
_ON_CPU = ("int16", "int8")
_OFFERED = {"torch": ("fp32", "bf16"), "onnx": ("fp32", "int8"), "numba": ("int16", "int8")}

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
        backend: ``torch``, ``onnx`` or ``numba``.
        precision: ``fp32``, ``bf16``, ``int16`` or ``int8``.
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
        the same to 1e-5; not in int8, in which they round differently.
        """
        precision = f"{self.backend}-int8" if self.precision == "int8" else self.precision
        label = re.sub(r"[^A-Za-z0-9.]+", "-", Path(self.name).name).strip("-")[-48:]
        return f"{label}-{precision}-{self.layout.identity}"

    @cached_property
    def _tokenizer(self) -> Any:
        return load_tokenizer(self.layout)

    @cached_property
    def _network(self) -> Network:
        if self.backend == "onnx":
            from unprompt.encoding.onnx_backend import OnnxNetwork

            return OnnxNetwork(self.layout, self.precision)
        if self.backend == "numba":
            from unprompt.encoding.numba_backend import NumbaNetwork

            return NumbaNetwork(self.layout, self.precision)
        from unprompt.encoding.torch_backend import TorchNetwork

        return TorchNetwork(self.layout, self.precision, self.device)

    def encode(self, texts: Sequence[str], batch_size: int = 256) -> np.ndarray:
        """Encode texts, without the cache.

        Args:
            texts: prompts; the empty string is one too.
            batch_size: prompts in a batch, at most; long ones come in smaller batches.

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
        backend: ``torch``; ``onnx``, which works without torch, on the CPU; ``numba``, on
            processors with AVX512-VNNI; or ``auto``, the fastest that runs the model in the
            precision.
        precision: ``fp32`` is exact: what scores are computed from wants it, so that they are
            the same on every machine. ``int16``, for numba, is all but exact: a mean cosine to
            fp32 of 0.9999998. ``bf16`` is for torch. ``int8`` is the fastest, at a mean cosine
            to fp32 of about 0.997 with numba and 0.993 with onnx. ``auto`` takes the fastest
            whose mean cosine to fp32 is at least 0.9999, enough for near-duplicates and search:
            bf16 where torch finds instructions for it, else int16 where numba does, else fp32.
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
    if backend != "auto" and precision not in ("auto", *_OFFERED[backend]):
        raise EncoderError(f"the {backend} backend has no precision {precision}")
    if device not in (None, "cpu") and (backend in ("onnx", "numba") or precision in _ON_CPU):
        what = f"precision {precision}" if precision in _ON_CPU else f"the {backend} backend"
        raise EncoderError(f"{what} runs on the CPU, not on '{device}'")
    if backend == "numba" or precision == "int16":
        return "numba", precision.replace("auto", "int16"), _on_numba(layout)
    if precision == "int8":
        fastest = "numba" if _has_numba(layout) else "onnx"
        return backend.replace("auto", fastest), "int8", "cpu"
    if backend == "onnx":
        return "onnx", "fp32", "cpu"
    return _choose_by_device(layout, backend, precision, device)


def _choose_by_device(
    layout: Layout, backend: str, precision: str, device: str | None
) -> tuple[str, str, str]:
    """`_choose` where torch is meant, or is to be asked what the machine can do."""
    on_cpu = device in (None, "cpu")
    if not _has_torch():
        if backend == "torch" or precision == "bf16" or not on_cpu:
            raise MissingExtraError("torch and transformers", "train")
        fast = precision == "auto" and _has_numba(layout)
        return ("numba", "int16", "cpu") if fast else ("onnx", "fp32", "cpu")
    import torch

    from unprompt.encoding.torch_backend import multiplies_in_bf16

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if precision == "auto" and multiplies_in_bf16(device):
        precision = "bf16"
    if backend == "torch" or precision == "bf16" or device != "cpu":
        return "torch", precision.replace("auto", "fp32"), device
    if precision == "auto" and _has_numba(layout):
        return "numba", "int16", "cpu"
    return "onnx" if is_supported(layout) else "torch", "fp32", "cpu"


def _has_numba(layout: Layout) -> bool:
    from unprompt.encoding.numba_backend import is_available

    return is_available(layout)


def _on_numba(layout: Layout) -> str:
    """The device of the numba backend, if it can run the model."""
    need("data", "numba")
    if not _has_numba(layout):
        raise EncoderError(
            f"the numba backend, which int16 is for, cannot run {layout.folder}: it takes a "
            "processor with AVX512-VNNI, and a BERT with safetensors weights whose heads are a "
            "multiple of 32 wide; take precision fp32"
        )
    return "cpu"


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

"""Weights read from safetensors files without torch or the safetensors package.

The format (github.com/huggingface/safetensors): eight bytes of header length, a JSON header
with type, shape and place of each tensor, then the data.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from unprompt.encoding.encoder_config import EncoderError

_TYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4"}


def read_safetensors(paths: Sequence[Path]) -> dict[str, np.ndarray]:
    """Tensors by name, from all shards of a model; floats of any width come as float32.

    Raises:
        EncoderError: a file is damaged, truncated, or holds a type that no text encoder has.
    """
    tensors = {}
    for path in paths:
        content = memoryview(path.read_bytes())
        try:
            start = 8 + int.from_bytes(content[:8], "little")
            header = json.loads(bytes(content[8:start]))
            header.pop("__metadata__", None)
            for name, entry in header.items():
                begin, end = entry["data_offsets"]
                flat = np.frombuffer(content[start + begin : start + end], _TYPES[entry["dtype"]])
                tensors[name] = _widen(flat, entry["dtype"]).reshape(entry["shape"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise EncoderError(
                f"{path}: not a whole safetensors file ({error}); download the model again"
            ) from error
    return tensors


def _widen(flat: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "BF16":
        return (flat.astype(np.uint32) << 16).view(np.float32)
    return flat.astype(np.float32, copy=False) if dtype == "F16" else flat

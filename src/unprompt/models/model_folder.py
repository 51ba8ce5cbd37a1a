"""The files of a model's folder: their names, and how its JSON files are read.

A model's folder holds ``config.json`` and the weights, or one of `ENSEMBLE_FILE`, `KNN_FILE` and
`INTERROGATOR_FILE`, which state a model made of others. It may also hold folders with a bank and a
decoder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unprompt.errors import ModelNotFoundError, UnpromptError

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
ONNX_FILE = "model.onnx"
PREPROCESSOR_FILE = "preprocessor_config.json"
ENSEMBLE_FILE = "ensemble.json"
KNN_FILE = "knn.json"
INTERROGATOR_FILE = "interrogator.json"
BANK_FOLDER = "bank"
KEYS_FOLDER = "keys"
DECODER_FOLDER = "decoder"
OPEN_CLIP_CONFIG_FILE = "open_clip_config.json"
OPEN_CLIP_WEIGHT_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")

EMBEDDER_TYPE = "unprompt-embedder"
"""The ``model_type`` in the ``config.json`` of an embedder."""
DECODER_TYPE = "unprompt-decoder"
"""The ``model_type`` in the ``config.json`` of a decoder."""


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of a model's folder.

    Raises:
        ModelNotFoundError: the file is missing.
        UnpromptError: the file is damaged, or holds no object.
    """
    with damaged(path):
        try:
            stated = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            raise ModelNotFoundError(f"{path} is missing: not a model") from None
        if not isinstance(stated, dict):
            raise TypeError("it holds no JSON object")
        return stated


@contextmanager
def damaged(path: Path) -> Iterator[None]:
    """Turn a block's KeyError, TypeError or ValueError into an error that names the file.

    Raises:
        UnpromptError: the block found that a value is missing or wrong.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        reason = f"it states no {error}" if isinstance(error, KeyError) else error
        raise UnpromptError(
            f"{path} is damaged, or another program wrote it ({reason}); write it again"
        ) from error


@contextmanager
def hub_errors(name: str) -> Iterator[None]:
    """Turn an error of ``huggingface_hub`` in the block into one that names the model.

    Raises:
        ModelNotFoundError: the block raised an OSError or a ValueError, as all errors of
            ``huggingface_hub`` are.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        raise ModelNotFoundError(
            f"model '{name}': there is no such folder, and it cannot be downloaded from the hub "
            f"({type(error).__name__})"
        ) from error


def is_decoder(folder: str | Path) -> bool:
    """Whether a folder holds a trained decoder that is not exported."""
    path = Path(folder) / CONFIG_FILE
    return path.is_file() and read_json(path).get("model_type") == DECODER_TYPE

"""The kinds of models that predict, what they are told by, and what loads each: a row a kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from unprompt.errors import ModelNotFoundError, UnpromptError

Loader = Callable[[Any, str, "str | None"], Any]
"""Loads an `EmbeddingModel` from its place (a folder or a name), the name that answers give it, and
a device."""

CONFIG_FILE = "config.json"

BY_FILE = {
    "model.onnx": "embedding_model:load_onnx",
    "ensemble.json": "ensemble_model:load_ensemble",
    "knn.json": "knn_model:load_knn",
    "interrogator.json": "interrogator_model:load_interrogator",
    "open_clip_config.json": "captioner_model:load_open_clip",
    "open_clip_model.safetensors": "captioner_model:load_open_clip_weights",
    "open_clip_pytorch_model.bin": "captioner_model:load_open_clip_weights",
}
"""By a file that the model's folder holds; the first that is there counts."""

BY_TYPE = {
    "unprompt-embedder": "embedding_model:load_torch",
    "coca": "captioner_model:load_coca",
    "blip": "image_to_text:load_image_to_text",
    "blip-2": "image_to_text:load_image_to_text",
    "git": "image_to_text:load_image_to_text",
    "vision-encoder-decoder": "image_to_text:load_image_to_text",
    "clip": "interrogator_model:load_clip",
    "siglip": "interrogator_model:load_siglip",
}
"""By the ``model_type`` of ``config.json``, in a folder or on the hub."""

BY_PREFIX = {
    "open_clip/": "captioner_model:load_open_clip",
    "coca_": "captioner_model:load_open_clip",
    "hf_clip/": "interrogator_model:load_pair",
    "hf/": "interrogator_model:load_pair",
}
"""By how a name begins that is no folder."""


def loader_of(place: str | Path) -> Loader:
    """What loads the model of a folder, a prefixed name or a hub repository.

    Raises:
        ModelNotFoundError: the folder holds no model, or the hub does not answer for the name.
        UnpromptError: ``config.json`` is damaged, or of a kind that is not here.
    """
    folder = Path(place)
    if folder.is_dir():
        for file, loader in BY_FILE.items():
            if (folder / file).is_file():
                return _imported(loader)
        if not (folder / CONFIG_FILE).is_file():
            raise ModelNotFoundError(
                f"{folder}: holds neither {', '.join(BY_FILE)} nor {CONFIG_FILE}: not a model"
            )
        return _of_config(folder / CONFIG_FILE, folder)
    for prefix, loader in BY_PREFIX.items():
        if str(place).startswith(prefix):
            return _imported(loader)
    return _of_config(_hub_config(str(place)), place)


def _of_config(file: Path, place: str | Path) -> Loader:
    try:
        stated = json.loads(file.read_text("utf-8"))
        kind = stated["model_type"] if isinstance(stated, dict) else None
    except (ValueError, KeyError) as error:
        raise UnpromptError(
            f"{file} is damaged: {error!r}; it states no model_type; write it again"
        ) from error
    if kind not in BY_TYPE:
        raise UnpromptError(
            f"{place}: a model of type '{kind}', which predicts no prompts here; those that do: "
            f"{', '.join(BY_TYPE)}"
        )
    return _imported(BY_TYPE[kind])


def _hub_config(repository: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, CONFIG_FILE))
    # No route, no such repository, no permission: its many errors are OSErrors or ValueErrors.
    except (OSError, ValueError) as error:
        raise ModelNotFoundError(
            f"model '{repository}': no such folder, and not to be had from the hub "
            f"({type(error).__name__})"
        ) from error


def _imported(loader: str) -> Loader:
    module, _, function = loader.partition(":")
    loaded: Loader = getattr(import_module(f"unprompt.predicting.{module}"), function)
    return loaded

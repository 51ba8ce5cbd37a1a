"""Find CoCa models of open_clip, read their configuration, and convert weights both ways."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from transformers import PreTrainedModel

from unprompt.errors import ModelNotFoundError, UnpromptError
from unprompt.models.coca.configuration import CoCaConfig
from unprompt.models.coca.weight_names import groups
from unprompt.models.model_folder import OPEN_CLIP_CONFIG_FILE, OPEN_CLIP_WEIGHT_FILES

State = dict[str, torch.Tensor]

# Settings of open_clip's towers and their keys in `CoCaConfig`.
_VISION = {
    "image_size": "image_size",
    "patch_size": "patch_size",
    "width": "vision_hidden_size",
    "layers": "vision_layers",
    "attn_pooler_heads": "pooler_heads",
    "attn_pooler_queries": "pooler_queries",
}
_TEXT = {
    "context_length": "context_length",
    "vocab_size": "vocab_size",
    "width": "hidden_size",
    "layers": "text_layers",
    "heads": "text_heads",
    "pad_id": "filler_token_id",
}
_DECODER = {"layers": "decoder_layers", "heads": "decoder_heads"}
# Settings that must have these values, as in both CoCa models of open_clip.
_REQUIRED: dict[str, dict[str, Any]] = {
    "vision_cfg": {"attentional_pool": True, "output_tokens": True, "mlp_ratio": 4.0},
    "text_cfg": {"embed_cls": True, "output_tokens": True, "hf_model_name": None, "mlp_ratio": 4.0},
    "multimodal_cfg": {"mlp_ratio": 4.0},
}
# Settings that do not change these models, or that are read separately.
_NO_EFFECT: dict[str, set[str]] = {
    "vision_cfg": {"head_width"},
    "text_cfg": {"eos_id", "tokenizer_kwargs", "hf_tokenizer_name", "tokenizer_mode"},
    "multimodal_cfg": {
        "context_length", "vocab_size", "width", "attn_pooler_heads", "n_queries", "dim_head",
    },
}  # fmt: skip
# Causal masks that older versions of open_clip saved with the weights.
_MASKS = ("text.attn_mask", "text_decoder.attn_mask")


def read_open_clip(
    name_or_path: str | Path, pretrained: str | Path | None = None
) -> tuple[CoCaConfig, State]:
    """Find a CoCa of open_clip and read its configuration and weights.

    Args:
        name_or_path: an architecture (``coca_ViT-L-14``), a hub repository (``hf-hub:ORG/NAME`` or
            ``ORG/NAME``), a folder with `OPEN_CLIP_CONFIG_FILE`, or a file of weights:
            ``.safetensors``, or ``.pt`` and ``.bin`` (read with ``weights_only=True``; training
            checkpoints of open_clip too). For a single file, the shapes of its weights give the
            architecture.
        pretrained: for an architecture, open_clip's tag of the weights, or a file of weights.

    Raises:
        ModelNotFoundError: there is no such model, or its weights cannot be downloaded.
        UnpromptError: it is not a CoCa that this package supports.
    """
    path = Path(name_or_path)
    if path.is_file():
        state = read_weights(path)
        return config_from_weights(state), state
    is_folder = path.is_dir()
    stated, file = _of_folder(path) if is_folder else _of_name(str(name_or_path), pretrained)
    return config_from_open_clip(stated), read_weights(file)


def load_open_clip(model: PreTrainedModel, state: Mapping[str, torch.Tensor]) -> None:
    """Copy all weights of an open_clip state dict into a CoCa model.

    Raises:
        UnpromptError: keys are missing, unknown or of a wrong shape; the error names them all.
    """
    given = _without_masks(state)
    expected = {key: tensor.shape for key, tensor in to_open_clip(model).items()}
    problems = [f"{key} is missing" for key in expected if key not in given]
    problems += [f"{key} is unknown" for key in given if key not in expected]
    problems += [
        f"{key} has shape {tuple(given[key].shape)} instead of {tuple(shape)}"
        for key, shape in expected.items()
        if key in given and given[key].shape != shape
    ]
    if problems:
        raise UnpromptError("not the weights of this CoCa: " + "; ".join(problems))
    own = model.state_dict()
    for theirs, ours, transposed in groups(cast("CoCaConfig", model.config)):
        stack = _stack([given[key].T if transposed else given[key] for key in theirs])
        for key, part in zip(ours, _unstack(stack, [own[key] for key in ours]), strict=True):
            own[key].copy_(part)


def to_open_clip(model: PreTrainedModel) -> State:
    """The model's weights as a state dict that open_clip's CoCa loads with ``strict=True``."""
    own = model.state_dict()
    state = {}
    for theirs, ours, transposed in groups(cast("CoCaConfig", model.config)):
        stack = _stack([own[key] for key in ours])
        parts = [stack] if len(theirs) == 1 else stack.chunk(len(theirs))
        for key, part in zip(theirs, parts, strict=True):
            state[key] = (part.T if transposed else part).contiguous()
    return state


def config_from_open_clip(stated: Mapping[str, Any]) -> CoCaConfig:
    """Translate ``model_cfg`` of open_clip.

    Raises:
        UnpromptError: a setting is not supported.
    """
    fields: dict[str, Any] = {}
    if "multimodal_cfg" not in stated:
        raise UnpromptError("not a CoCa: its open_clip configuration has no multimodal_cfg")
    for section, names in (
        ("vision_cfg", _VISION),
        ("text_cfg", _TEXT),
        ("multimodal_cfg", _DECODER),
    ):
        for key, value in stated[section].items():
            if key in names:
                if fields.setdefault(names[key], value) != value:
                    raise _unsupported(section, key, value)
            elif key in _REQUIRED[section]:
                if value != _REQUIRED[section][key]:
                    raise _unsupported(section, key, value)
            elif key not in _NO_EFFECT[section] and value:
                raise _unsupported(section, key, value)
    if not stated["vision_cfg"].get("attentional_pool"):
        raise _unsupported("vision_cfg", "attentional_pool", False)
    for width in (stated["embed_dim"], stated["multimodal_cfg"]["width"]):
        if width != fields["hidden_size"]:
            raise _unsupported("text_cfg", "width", fields["hidden_size"])
    head_width = stated["vision_cfg"].get("head_width", 64)
    fields["vision_heads"] = fields["vision_hidden_size"] // head_width
    fields["hidden_act"] = "quick_gelu" if stated.get("quick_gelu") else "gelu"
    return CoCaConfig(**fields)


def config_from_weights(state: Mapping[str, torch.Tensor]) -> CoCaConfig:
    """Read the architecture from the shapes of an open_clip state dict.

    Shapes do not show the number of heads. As in every CoCa of open_clip, heads are 64 wide in the
    towers, and the pooler has 8.

    Raises:
        UnpromptError: the weights are not a CoCa's.
    """
    try:
        vision_width, _, patch, _ = state["visual.conv1.weight"].shape
        positions = len(state["visual.positional_embedding"])
        vocabulary, width = state["text.token_embedding.weight"].shape
        return CoCaConfig(
            image_size=round((positions - 1) ** 0.5) * patch,
            patch_size=patch,
            vision_hidden_size=vision_width,
            vision_layers=_count(state, "visual.transformer.resblocks."),
            vision_heads=vision_width // 64,
            pooler_queries=len(state["visual.attn_pool.query"]),
            hidden_size=width,
            text_layers=_count(state, "text.transformer.resblocks."),
            text_heads=width // 64,
            decoder_layers=_count(state, "text_decoder.resblocks."),
            decoder_heads=width // 64,
            vocab_size=vocabulary,
            context_length=len(state["text.positional_embedding"]) - 1,
        )
    except KeyError as error:
        raise UnpromptError(f"not the weights of an open_clip CoCa: {error} is missing") from None


def read_weights(path: Path) -> State:
    """Read a state dict from safetensors, or from ``torch.save``'s format without running code.

    Raises:
        UnpromptError: the file is damaged, or contains more than tensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).splitlines()[0]
        raise UnpromptError(f"{path}: not a file of weights: {reason}") from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else {}
    state = {key.removeprefix("module."): value for key, value in state.items()}
    if not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UnpromptError(f"{path}: contains no state dict")
    return state


def _stack(parts: list[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _unstack(stack: torch.Tensor, like: list[torch.Tensor]) -> Sequence[torch.Tensor]:
    return [stack] if len(like) == 1 else stack.split([len(part) for part in like])


def _without_masks(state: Mapping[str, torch.Tensor]) -> State:
    """Leave out the causal masks that older versions saved, after checking them."""
    kept = dict(state)
    for key in _MASKS:
        if (mask := kept.pop(key, None)) is not None:
            causal = torch.full_like(mask, float("-inf")).triu(1)
            if not torch.equal(mask, causal):
                raise UnpromptError(f"{key} is not a causal mask: this is not a CoCa of open_clip")
    return kept


def _of_folder(folder: Path) -> tuple[Mapping[str, Any], Path]:
    try:
        stated = json.loads((folder / OPEN_CLIP_CONFIG_FILE).read_text("utf-8"))["model_cfg"]
    except FileNotFoundError:
        raise ModelNotFoundError(f"{folder / OPEN_CLIP_CONFIG_FILE} is missing") from None
    for name in OPEN_CLIP_WEIGHT_FILES:
        if (folder / name).is_file():
            return stated, folder / name
    raise ModelNotFoundError(f"{folder}: contains none of {', '.join(OPEN_CLIP_WEIGHT_FILES)}")


def _of_name(name: str, pretrained: str | Path | None) -> tuple[Mapping[str, Any], Path]:
    """Configuration and weights file of an architecture of open_clip or a hub repository."""
    import open_clip
    from open_clip.pretrained import download_pretrained, get_pretrained_cfg

    repository = name.removeprefix("hf-hub:")
    if "/" in repository:
        return _of_folder(_download(repository))
    stated = open_clip.get_model_config(name)
    if stated is None:
        known = [model for model in open_clip.list_models() if model.startswith("coca_")]
        raise ModelNotFoundError(f"'{name}': open_clip has no such model; {', '.join(known)}")
    if pretrained is None:
        raise ModelNotFoundError(f"'{name}': give its weights as pretrained=TAG or a file")
    if Path(pretrained).is_file():
        return stated, Path(pretrained)
    tag = get_pretrained_cfg(name, str(pretrained))
    if not tag:
        known = open_clip.list_pretrained_tags_by_model(name)
        raise ModelNotFoundError(
            f"'{name}': '{pretrained}' is neither a file nor a tag; its tags: {', '.join(known)}"
        )
    try:
        return stated, Path(download_pretrained(tag))
    except (OSError, RuntimeError) as error:
        raise _not_downloaded(f"{name} {pretrained}", error) from error


def _download(repository: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    files = [OPEN_CLIP_CONFIG_FILE, *OPEN_CLIP_WEIGHT_FILES]
    try:
        return Path(snapshot_download(repository, allow_patterns=files))
    except (OSError, HFValidationError) as error:
        raise _not_downloaded(repository, error) from error


def _not_downloaded(name: str, error: Exception) -> ModelNotFoundError:
    return ModelNotFoundError(
        f"'{name}': no such folder or file, and it cannot be downloaded ({type(error).__name__})"
    )


def _unsupported(section: str, key: str, value: object) -> UnpromptError:
    return UnpromptError(f"{section}.{key}={value}: this setting of open_clip is not supported")


def _count(state: Mapping[str, torch.Tensor], prefix: str) -> int:
    """Number of blocks whose keys begin with a prefix and a number."""
    numbers = {key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)}
    return len(numbers)

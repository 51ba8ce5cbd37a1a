"""Text towers of contrastive models: prompts into the space that images share.

A tower is named as the image tower is in `unprompt.models.backbones`: ``hf_clip/ID_OR_DIR``,
``hf/ID_OR_DIR`` (SigLIP and others whose towers end in the shared space) or
``open_clip/NAME[:TAG]``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from unprompt.errors import ModelNotFoundError, UnpromptError


@dataclass(frozen=True)
class TextTower:
    """A loaded text tower.

    Attributes:
        name: what it was loaded by.
        network: its weights, and those of whatever comes with them.
    """

    name: str
    network: nn.Module = field(repr=False)
    _encode: Callable[[list[str], torch.device], torch.Tensor] = field(repr=False)

    def features(self, prompts: list[str], batch_size: int = 256) -> np.ndarray:
        """Unit-norm features of prompts, float32 of shape (n, dim); long prompts are cut off."""
        device = next(self.network.parameters()).device
        # Prompts of like lengths together: less of a batch is padding.
        order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
        features: np.ndarray | None = None
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            with torch.inference_mode():
                batch = self._encode([prompts[row] for row in rows], device)
                values = F.normalize(batch.float(), dim=-1).cpu().numpy()
            if features is None:
                features = np.empty((len(prompts), values.shape[1]), np.float32)
            features[rows] = values
        if features is None:
            raise ValueError("no prompts")
        return features


def create_text_tower(name: str, device: str = "cpu") -> TextTower:
    """Load a text tower with its pretrained weights, from the local hub cache or the hub.

    Raises:
        ModelNotFoundError: the weights cannot be had.
        UnpromptError: the name has no known prefix, or the model has no text tower.
    """
    library, _, place = name.partition("/")
    if library not in _LIBRARIES or not place:
        known = ", ".join(f"{prefix}/…" for prefix in _LIBRARIES)
        raise UnpromptError(f"'{name}' has no text tower; those of {known} have")
    try:
        network, encode = _LIBRARIES[library](place)
    except UnpromptError:
        raise
    except Exception as error:  # each library has errors of its own
        reason = " ".join(str(error).split())[:300]
        raise ModelNotFoundError(
            f"text tower '{name}' could not be loaded: {reason}; check its name, and that its "
            "weights and tokenizer are on disk or the hub can be reached"
        ) from error
    return TextTower(name, network.to(device).eval(), encode)


_Encode = Callable[[list[str], torch.device], torch.Tensor]


def _hf(place: str) -> tuple[nn.Module, _Encode]:
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    config = AutoConfig.from_pretrained(place)
    network: Any = AutoModel.from_pretrained(place)
    if not hasattr(network, "get_text_features"):
        raise UnpromptError(f"'{place}' is a {config.model_type}, which has no text tower")
    tokenizer = AutoTokenizer.from_pretrained(place)
    longest = int(config.text_config.max_position_embeddings)
    # SigLIP was trained on texts padded to their full length, and knows no others.
    padding = "max_length" if config.model_type.startswith("siglip") else True

    def encode(prompts: list[str], device: torch.device) -> torch.Tensor:
        tokens = tokenizer(
            prompts, padding=padding, truncation=True, max_length=longest, return_tensors="pt"
        )
        output = network.get_text_features(**tokens.to(device))
        features: torch.Tensor = getattr(output, "pooler_output", output)
        return features

    return network, encode


def _open_clip(place: str) -> tuple[nn.Module, _Encode]:
    import open_clip

    if place.startswith(("hf-hub:", "local-dir:")):
        name = place
        network = open_clip.create_model(place, require_pretrained=True)
    else:
        name, _, tag = place.partition(":")
        network = open_clip.create_model(name, pretrained=tag or None, require_pretrained=True)
    tokenizer = open_clip.get_tokenizer(name)

    def encode(prompts: list[str], device: torch.device) -> torch.Tensor:
        features: torch.Tensor = network.encode_text(tokenizer(prompts).to(device))
        return features

    return network, encode


_LIBRARIES = {"hf_clip": _hf, "hf": _hf, "open_clip": _open_clip}

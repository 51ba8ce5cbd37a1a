"""Text towers of contrastive models: from prompts to the space that images share.

A text tower has the same name as its image tower in `unprompt.models.backbones`:
``hf_clip/ID_OR_DIR``, ``hf/ID_OR_DIR`` (SigLIP, and others whose towers end in the shared space) or
``open_clip/NAME[:TAG]``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from unprompt.devices import placed
from unprompt.errors import ModelNotFoundError, UnpromptError
from unprompt.models.fingerprint import fingerprint
from unprompt.models.model_names import OpenClipName, split_library
from unprompt.models.pretrained import load_pretrained


@dataclass(frozen=True)
class TextTower:
    """A loaded text tower.

    Attributes:
        name: its name.
        network: its network, without the image tower.
    """

    name: str
    network: nn.Module = field(repr=False)
    _encode: Callable[[list[str], torch.device], torch.Tensor] = field(repr=False)

    @cached_property
    def fingerprint(self) -> str:
        """The name and a hash of the weights, as part of a file name."""
        label = re.sub(r"[^A-Za-z0-9.]+", "-", Path(self.name).name).strip("-")[-48:]
        return f"{label}-{fingerprint(split_library(self.name)[0], self.network)}"

    @cached_property
    def dim(self) -> int:
        """Width of the features."""
        return self.features([""]).shape[1]

    def features(self, prompts: Sequence[str], batch_size: int = 256) -> np.ndarray:
        """Unit-norm features of prompts, float32 of shape (n, dim); long prompts are truncated."""
        rows = [vector for _, vector in sorted(self.stream(prompts, batch_size))]
        if not rows:
            raise ValueError("no prompts")
        return np.stack(rows)

    def stream(
        self, texts: Sequence[str], batch_size: int = 256
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (row, unit-norm features) of each text, ordered by length.

        With this method, `unprompt.encoding.encode` takes a tower as an encoder and caches its
        features on disk.
        """
        device = next(self.network.parameters()).device
        # Prompts of similar lengths make batches with little padding.
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            with torch.inference_mode():
                batch = self._encode([texts[row] for row in rows], device)
                values = F.normalize(batch.float(), dim=-1).cpu().numpy()
            yield from zip(rows, values, strict=True)


def create_text_tower(name: str, device: str = "cpu") -> TextTower:
    """Load a text tower with its pretrained weights, from the local hub cache or the hub.

    Raises:
        ModelNotFoundError: the weights cannot be found or downloaded.
        UnpromptError: the name has no known prefix, the model has no text tower, or the device
            cannot be used.
    """
    library, place = split_library(name)
    if library not in _LIBRARIES or not place:
        known = ", ".join(f"{prefix}/…" for prefix in _LIBRARIES)
        raise UnpromptError(f"'{name}' has no text tower; name a model with the prefix {known}")
    try:
        network, encode = _LIBRARIES[library](place)
    except UnpromptError:
        raise
    except Exception as error:  # the libraries raise many types of errors
        reason = " ".join(str(error).split())[:300]
        raise ModelNotFoundError(
            f"text tower '{name}' could not be loaded: {reason}; check its name, and that its "
            "weights and tokenizer are on disk or the hub can be reached"
        ) from error
    return TextTower(name, placed(network, device), encode)


_Encode = Callable[[list[str], torch.device], torch.Tensor]


def _hf(place: str) -> tuple[nn.Module, _Encode]:
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    config = AutoConfig.from_pretrained(place)
    network = load_pretrained(AutoModel, place, dtype=torch.float32)
    if not hasattr(network, "get_text_features"):
        raise UnpromptError(f"'{place}' is a {config.model_type}, which has no text tower")
    network.vision_model = None
    tokenizer = AutoTokenizer.from_pretrained(place)
    longest = int(config.text_config.max_position_embeddings)
    # SigLIP was trained on texts that are padded to the full length.
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

    name = OpenClipName.parse(place)
    network = open_clip.create_model(name.model, pretrained=name.weights, require_pretrained=True)
    network.visual = None
    tokenizer = open_clip.get_tokenizer(name.model)

    def encode(prompts: list[str], device: torch.device) -> torch.Tensor:
        features: torch.Tensor = network.encode_text(tokenizer(prompts).to(device))
        return features

    return network, encode


_LIBRARIES = {"hf_clip": _hf, "hf": _hf, "open_clip": _open_clip}

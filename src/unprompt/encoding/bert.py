"""Which encoders the backends of our own run, those without torch: BERT, from safetensors."""

from __future__ import annotations

import json
from typing import Any

from unprompt.encoding.encoder_config import EncoderError, Layout


def read_config(layout: Layout) -> dict[str, Any]:
    """A model's ``config.json``.

    Raises:
        EncoderError: it is no BERT with safetensors weights.
    """
    path = layout.weights_folder / "config.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if reason := _obstacle(layout, config):
        raise EncoderError(f"{reason}; take the torch backend")
    return config


def is_supported(layout: Layout) -> bool:
    """Whether `read_config` accepts the model."""
    try:
        read_config(layout)
    except EncoderError:
        return False
    return True


def _obstacle(layout: Layout, config: dict[str, Any]) -> str | None:
    """Why the model cannot run without torch, if it cannot."""
    if any(path.suffix != ".safetensors" for path in layout.weights):
        return f"{layout.weights_folder}: only torch reads other weights than safetensors"
    stated = {"position_embedding_type": "absolute"} | config
    wanted = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
    for key, value in wanted.items():
        if stated.get(key) != value:
            return (
                f"{layout.weights_folder / 'config.json'}: without torch encoders of "
                f"{key} '{value}' run, not of '{stated.get(key)}'"
            )
    return None

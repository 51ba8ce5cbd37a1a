"""Adapt position embeddings to another input size than that of the pretraining."""

from __future__ import annotations

import copy
from typing import Any


def at_size(network: Any, size: int) -> Any:
    """Adapt a vision model of transformers to square inputs of another size.

    Learned position embeddings are resampled over their grid, bicubically and with antialiasing,
    as timm does for its models. Relative and rotary ones need no resampling.

    Args:
        network: a model with ``config.image_size``.
        size: side of the new input in pixels.
    """
    from timm.layers import resample_abs_pos_embed

    config = copy.deepcopy(network.config)
    config.image_size = size
    resized = type(network)(config)
    weights = network.state_dict()
    for name, wanted in resized.state_dict().items():
        there = weights[name]
        if name.endswith("position_ids"):
            weights[name] = wanted
        elif there.shape != wanted.shape:
            new, old = (_grid(model.config) for model in (resized, network))
            tokens, width = there.shape[-2:]
            weights[name] = resample_abs_pos_embed(
                there.reshape(1, tokens, width),
                [new, new],
                [old, old],
                num_prefix_tokens=tokens - old**2,
            ).reshape(wanted.shape)
    resized.load_state_dict(weights)
    return resized.to(next(network.parameters()).dtype)


def _grid(config: Any) -> int:
    """Patches along a side."""
    sides = [
        side[0] if isinstance(side, list | tuple) else side
        for side in (config.image_size, config.patch_size)
    ]
    return int(sides[0]) // int(sides[1])

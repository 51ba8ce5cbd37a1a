"""Run the last block of a vision transformer for its class token alone.

If the feature is the class token, the last block needs its other tokens only as keys and values of
its attention. So the layers after the attention (projection and MLP, nine of the block's twelve
matrix products) can run on one token. Features and gradients are the same up to rounding, with 6 %
less work in a network of twelve blocks and 3 % less in one of 24.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def only_class_token(network: nn.Module) -> bool:
    """Make a network's last block continue with the class token alone, if that is exact.

    It is exact for timm's plain vision transformers that pool by token and for the image towers of
    transformers' CLIP. The other tokens of the output are wrong afterwards. The weights keep their
    names, and LoRA, checkpointing and compiling still work.

    Args:
        network: changed in place if that is exact.

    Returns:
        Whether it was changed.
    """
    library = type(network).__module__.partition(".")[0]
    after_attention = {"timm": _timm, "transformers": _clip}.get(library)
    narrowed = after_attention(network) if after_attention else []
    for module in narrowed:
        module.register_forward_pre_hook(_first_token)
    return bool(narrowed)


def _first_token(_: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    # Later sums of this token with all tokens broadcast. Only their first token is read; it is
    # right.
    return (inputs[0][:, :1],)


def _timm(network: Any) -> list[nn.Module]:
    """In timm's networks, the modules right after attention and at the start of the MLP branch."""
    from timm.layers import Attention
    from timm.models.vision_transformer import Block, VisionTransformer

    # Derived classes may pool or run their blocks in other ways.
    if type(network) is not VisionTransformer or network.global_pool != "token":
        return []
    last: Any = network.blocks[-1]
    if type(last) is not Block or type(last.attn) is not Attention or network.attn_pool is not None:
        return []
    return [last.attn.norm, last.norm2]


def _clip(network: Any) -> list[nn.Module]:
    """In transformers' CLIP, the same modules except the projection, whose parts LoRA changes."""
    from transformers import CLIPVisionModel, CLIPVisionModelWithProjection

    tower = network.vision_model if type(network) is CLIPVisionModelWithProjection else network
    if type(tower) is not CLIPVisionModel:
        return []
    last: Any = tower.encoder.layers[-1]
    return [last.layer_norm2]

"""The blocks of CoCa's towers: pre-norm transformer blocks and the attentional pooler.

Shapes are written (rows, length, width): a row is a text or an image.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from unprompt.models.coca.configuration import CoCaConfig
from unprompt.models.coca.kv_cache import CoCaCache, KeysValues
from unprompt.models.coca.text_masks import Ragged


class Mlp(nn.Module):
    """Two linear layers with an activation between."""

    def __init__(self, width: int, config: CoCaConfig):
        super().__init__()
        hidden = int(width * config.mlp_ratio)
        self.expand = nn.Linear(width, hidden)
        self.activation = ACT2FN[config.hidden_act]
        self.contract = nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(rows, length, width) to the same shape."""
        result: torch.Tensor = self.contract(self.activation(self.expand(x)))
        return result


class SelfAttention(nn.Module):
    """Multi-head attention of a sequence to itself; `Block` applies the projections.

    Args:
        width: width of the sequence.
        heads: number of attention heads.
        layer: index of this layer's keys and values in a cache.
    """

    def __init__(self, width: int, heads: int, layer: int = 0):
        super().__init__()
        self.heads = heads
        self.layer = layer
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    @property
    def projection(self) -> nn.Linear:
        """The input projection; `attend` takes its output."""
        return self.qkv

    def attend(
        self,
        qkv: torch.Tensor,
        mask: torch.Tensor | None = None,
        causal: bool = False,
        cache: CoCaCache | None = None,
        ragged: Ragged | None = None,
    ) -> torch.Tensor:
        """Compute attention, between the input and the output projection.

        Args:
            qkv: queries, keys and values (rows, length, 3 * width), or (tokens, 3 * width) with
                ``ragged``.
            mask: True where a query (second last axis) may attend to a key (last axis).
            causal: without a mask, let each position attend to itself and to earlier ones.
            cache: keys and values of earlier positions, extended by those of ``qkv``. The mask
                must then come from `CoCaCache.spread`.
            ragged: positions of the tokens, if texts are concatenated.

        Returns:
            The attended values, (rows, length, width) or (tokens, width).
        """
        if ragged is not None:
            qkv = ragged.spread(qkv)
        rows, length, _ = qkv.shape
        parts = qkv.view(rows, length, 3, self.heads, -1)
        pair = parts.narrow(2, 1, 2)
        if cache is None:
            key, value = pair.permute(2, 0, 3, 1, 4).unbind(0)
        else:
            key, value = cache.append(pair, self.layer)
        # The rows of a group, beams of one image, share one set of keys: see `CoCaCache`.
        query = parts.select(2, 0).reshape(key.shape[0], -1, *parts.shape[3:]).transpose(1, 2)
        # A single new position attends to every key; `is_causal` would leave it only the first.
        causal = causal and mask is None and length > 1
        attended = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=causal
        )
        attended = attended.transpose(1, 2).reshape(rows, length, -1)
        return attended if ragged is None else ragged.gather(attended)


class CrossAttention(nn.Module):
    """Multi-head attention of texts to image tokens; see `SelfAttention`."""

    def __init__(self, width: int, heads: int, context_width: int | None = None):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(context_width or width, 2 * width)
        self.out = nn.Linear(width, width)

    @property
    def projection(self) -> nn.Linear:
        """The input projection; `attend` takes its output."""
        return self.query

    def keys_values(self, context: torch.Tensor) -> KeysValues:
        """Image tokens (images, tokens, width) to keys and values (images, heads, tokens, …)."""
        images, tokens, _ = context.shape
        pair = self.key_value(context).view(images, tokens, 2, self.heads, -1)
        key, value = pair.permute(2, 0, 3, 1, 4).unbind(0)
        return key, value

    def attend(
        self, query: torch.Tensor, keys_values: KeysValues, ragged: Ragged | None = None
    ) -> torch.Tensor:
        """Compute attention, between the input and the output projection.

        Args:
            query: (rows, length, width), or (tokens, width) with ``ragged``. Rows r * n to
                (r + 1) * n - 1 attend to image r, where n is rows divided by images. They share
                one copy of the image's keys and values.
            keys_values: from `keys_values`.
            ragged: positions of the tokens, if texts are concatenated.

        Returns:
            The attended values, of the shape of ``query``.
        """
        key, value = keys_values
        images, heads, _, head_width = key.shape
        if ragged is not None:
            query = ragged.spread(query)
        grouped = query.view(images, -1, heads, head_width).transpose(1, 2)
        attended = F.scaled_dot_product_attention(grouped, key, value)
        attended = attended.transpose(1, 2).reshape(query.shape)
        return attended if ragged is None else ragged.gather(attended)


class Block(GradientCheckpointingLayer):
    """Pre-norm transformer block, split before and after attention."""

    def __init__(self, width: int, attention: SelfAttention | CrossAttention, config: CoCaConfig):
        super().__init__()
        self.norm_1 = nn.LayerNorm(width, config.layer_norm_eps)
        self.attention: Any = attention
        self.norm_2 = nn.LayerNorm(width, config.layer_norm_eps)
        self.mlp = Mlp(width, config)

    def project(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the first norm and the input projection of attention."""
        result: torch.Tensor = self.attention.projection(self.norm_1(x))
        return result

    def finish(self, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """Apply everything after attention, given the block's input and the attended values."""
        x = x + self.attention.out(attended)
        result: torch.Tensor = x + self.mlp(self.norm_2(x))
        return result


class SelfBlock(Block):
    """A block of self-attention."""

    def __init__(self, width: int, heads: int, config: CoCaConfig, layer: int = 0):
        super().__init__(width, SelfAttention(width, heads, layer), config)

    def forward(
        self,
        x: torch.Tensor,
        mask: torch.Tensor | None = None,
        causal: bool = False,
        ragged: Ragged | None = None,
        past_key_values: CoCaCache | None = None,
    ) -> torch.Tensor:
        """See `SelfAttention.attend`."""
        qkv = self.project(x)
        return self.finish(x, self.attention.attend(qkv, mask, causal, past_key_values, ragged))


class CrossBlock(Block):
    """A block of cross-attention to image tokens."""

    def __init__(self, width: int, heads: int, config: CoCaConfig):
        super().__init__(width, CrossAttention(width, heads), config)
        self.norm_image = nn.LayerNorm(width, config.layer_norm_eps)

    def keys_values(self, image_states: torch.Tensor) -> KeysValues:
        """Keys and values of images; see `CrossAttention.keys_values`."""
        result: KeysValues = self.attention.keys_values(self.norm_image(image_states))
        return result

    def forward(
        self, x: torch.Tensor, images: torch.Tensor | KeysValues, ragged: Ragged | None = None
    ) -> torch.Tensor:
        """See `CrossAttention.attend`; ``images`` are image tokens, or their keys and values."""
        if isinstance(images, torch.Tensor):
            images = self.keys_values(images)
        return self.finish(x, self.attention.attend(self.project(x), images, ragged))


class AttentionalPooler(nn.Module):
    """Learned queries that attend to the image tower's tokens (section 3.2 of the paper)."""

    def __init__(self, config: CoCaConfig):
        super().__init__()
        width, context_width = config.hidden_size, config.vision_hidden_size
        self.query = nn.Parameter(torch.empty(config.pooler_queries, width))
        self.norm_query = nn.LayerNorm(width, config.layer_norm_eps)
        self.norm_image = nn.LayerNorm(context_width, config.layer_norm_eps)
        self.attention = CrossAttention(width, config.pooler_heads, context_width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens (images, tokens, width of the image tower) to (images, queries, hidden size)."""
        attention = self.attention
        key, value = attention.keys_values(self.norm_image(tokens))
        # The queries are the same for every image, so they are projected once.
        query = attention.query(self.norm_query(self.query))
        query = query.view(self.query.shape[0], attention.heads, -1).transpose(0, 1)
        attended = F.scaled_dot_product_attention(
            query.expand(tokens.shape[0], -1, -1, -1), key, value
        )
        result: torch.Tensor = attention.out(attended.transpose(1, 2).flatten(2))
        return result

"""The three towers of CoCa: image tower, unimodal text tower, multimodal decoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from unprompt.models.coca.configuration import CoCaConfig
from unprompt.models.coca.kv_cache import CoCaCache, KeysValues
from unprompt.models.coca.layers import AttentionalPooler, CrossBlock, SelfBlock
from unprompt.models.coca.text_masks import Ragged, check_token_ids


class ImageTower(nn.Module):
    """A vision transformer and the attentional pooler."""

    def __init__(self, config: CoCaConfig):
        super().__init__()
        width = config.vision_hidden_size
        patches = (config.image_size // config.patch_size) ** 2
        self.patches = nn.Conv2d(3, width, config.patch_size, config.patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.position_embedding = nn.Parameter(torch.empty(patches + 1, width))
        self.norm_pre = nn.LayerNorm(width, config.layer_norm_eps)
        self.blocks = nn.ModuleList(
            SelfBlock(width, config.vision_heads, config) for _ in range(config.vision_layers)
        )
        self.pooler = AttentionalPooler(config)
        self.norm_post = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.projection = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode images.

        Args:
            pixels: (images, 3, size, size), normalised.

        Returns:
            The pooled contrastive token (images, width) before its projection, and the image
            tokens (images, queries - 1, width) for the decoder.
        """
        patches = self.patches(pixels.to(self.patches.weight.dtype)).flatten(2).transpose(1, 2)
        start = self.class_embedding.expand(pixels.shape[0], 1, -1)
        x = self.norm_pre(torch.cat([start, patches], dim=1) + self.position_embedding)
        for block in self.blocks:
            x = block(x)
        pooled = self.norm_post(self.pooler(x))
        return pooled[:, 0], pooled[:, 1:]


class TextTower(nn.Module):
    """The unimodal text tower: causal, with a class token at the end for the contrastive branch."""

    def __init__(self, config: CoCaConfig):
        super().__init__()
        width = config.hidden_size
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, width)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.position_embedding = nn.Parameter(torch.empty(config.context_length + 1, width))
        self.blocks = nn.ModuleList(
            SelfBlock(width, config.text_heads, config, layer)
            for layer in range(config.text_layers)
        )
        self.norm = nn.LayerNorm(width, config.layer_norm_eps)
        self.projection = nn.Linear(width, width, bias=False)

    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor | None = None,
        cache: CoCaCache | None = None,
        ragged: Ragged | None = None,
    ) -> torch.Tensor:
        """Compute token states for the decoder, without the class token, which they never see.

        Args:
            input_ids: (rows, length), or (tokens,) with ``ragged``.
            positions: positions of the tokens in their texts, of the shape of ``input_ids`` or (1,
                length).
            mask: see `SelfAttention.attend`; causal by default.
            cache: cache of earlier positions.
            ragged: positions of the tokens, if texts are concatenated.
        """
        x = self._embed(input_ids) + self.position_embedding[positions]
        for block in self.blocks:
            x = block(x, mask, True, ragged, past_key_values=cache)
        return x

    def with_class(
        self, input_ids: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the states of the tokens and of the class token.

        The class token always has the last position of the context, so padding to the longest text
        of a batch gives the same result as padding to the context.

        Args:
            input_ids: (rows, length); tokens after the end of a text are ignored.
            lengths: lengths of the texts, (rows,).

        Returns:
            Token states (rows, length, width), and the normalised class token (rows, width) before
            its projection.
        """
        config, length = self.config, input_ids.shape[1]
        # With open_clip's mask the class token sees one position after the text: a filler.
        padded = min(length + (not config.correct_cls_mask), config.context_length)
        index = torch.arange(padded, device=input_ids.device)
        ids = nn.functional.pad(input_ids, (0, padded - length))
        ids = torch.where(index < lengths[:, None], ids, config.filler_token_id)
        tokens = self._embed(ids) + self.position_embedding[:padded]
        last = (self.class_embedding + self.position_embedding[-1]).expand(ids.shape[0], 1, -1)
        x = torch.cat([tokens, last], dim=1)
        mask = self._class_mask(lengths, padded)
        for block in self.blocks:
            x = block(x, mask)
        return x[:, :length], self.norm(x[:, -1])

    def _embed(self, ids: torch.Tensor) -> torch.Tensor:
        try:
            embedded: torch.Tensor = self.token_embedding(ids)
        except IndexError:
            check_token_ids(ids, self.config)
            raise
        return embedded

    def _class_mask(self, lengths: torch.Tensor, padded: int) -> torch.Tensor:
        """A causal mask in which the class token (the last position) does not see padding."""
        index = torch.arange(padded + 1, device=lengths.device)
        mask = (index <= index[:, None]).repeat(len(lengths), 1, 1, 1)
        if self.config.correct_cls_mask:
            mask[:, 0, -1] = (index < lengths[:, None]) | (index == padded)
        else:
            mask[:, 0, -1] = index <= lengths[:, None]
        return mask


class MultimodalDecoder(nn.Module):
    """Blocks of causal self-attention, each followed by cross-attention to the image tokens."""

    def __init__(self, config: CoCaConfig):
        super().__init__()
        width, heads, layers = config.hidden_size, config.decoder_heads, config.decoder_layers
        self.self_blocks = nn.ModuleList(
            SelfBlock(width, heads, config, config.text_layers + layer) for layer in range(layers)
        )
        self.cross_blocks = nn.ModuleList(CrossBlock(width, heads, config) for _ in range(layers))
        self.norm = nn.LayerNorm(width, config.layer_norm_eps)

    def forward(
        self,
        x: torch.Tensor,
        image_states: torch.Tensor | None,
        mask: torch.Tensor | None = None,
        cache: CoCaCache | None = None,
        ragged: Ragged | None = None,
    ) -> torch.Tensor:
        """Add information of the images to token states; the shape stays the same.

        Args:
            x: states from the text tower, (rows, length, width), or (tokens, width) with
                ``ragged``.
            image_states: (images, tokens, width); rows are a multiple of images. Not needed if
                the cache has the images.
            mask: see `SelfAttention.attend`; causal by default.
            cache: cache of earlier positions and of the images.
            ragged: positions of the tokens, if texts are concatenated.
        """
        known: list[Any] = [image_states] * len(self.cross_blocks)
        if cache is not None:
            if not cache.image:
                if image_states is None:
                    raise ValueError("the first step of a cache needs image_states")
                blocks: Any = self.cross_blocks
                cache.image = [_contiguous(block.keys_values(image_states)) for block in blocks]
            known = cache.image
        for self_block, cross_block, images in zip(
            self.self_blocks, self.cross_blocks, known, strict=True
        ):
            x = self_block(x, mask, True, ragged, past_key_values=cache)
            x = cross_block(x, images, ragged)
        result: torch.Tensor = self.norm(x)
        return result


def _contiguous(keys_values: KeysValues) -> KeysValues:
    """Contiguous copies, because every step reads them."""
    keys, values = keys_values
    return keys.contiguous(), values.contiguous()

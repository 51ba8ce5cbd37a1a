"""The configuration of a CoCa model: sizes of its towers, special tokens, weights of its losses."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig


class CoCaConfig(PreTrainedConfig):
    """Configuration of CoCa (Yu et al. 2022, arXiv 2205.01917); the defaults are ``coca_ViT-B-32``.

    The image tower has a width of its own. Its pooler projects image tokens to ``hidden_size``,
    the width of both text towers and of the shared embedding space.

    Attributes:
        image_size: side of the square input in pixels.
        patch_size: side of a patch in pixels.
        vision_hidden_size: width of the image tower.
        vision_layers: number of blocks of the image tower.
        vision_heads: attention heads of the image tower.
        pooler_queries: image tokens after attentional pooling; the first is the contrastive one.
        pooler_heads: attention heads of the pooler.
        hidden_size: width of the text towers.
        text_layers: blocks of the unimodal text tower.
        text_heads: attention heads of the unimodal text tower.
        decoder_layers: pairs of self- and cross-attention blocks of the multimodal decoder.
        decoder_heads: attention heads of the multimodal decoder.
        mlp_ratio: width of each MLP divided by the width of its tower.
        hidden_act: activation of every MLP: ``gelu``, or ``quick_gelu``.
        layer_norm_eps: epsilon of every layer norm.
        vocab_size: number of token ids.
        context_length: tokens of text, start and end included, without the class token.
        filler_token_id: the token after the end of a text that the class token attends to
            (open_clip pads with 0). It is never a target, and `generate` never writes it.
        correct_cls_mask: whether the class token attends to itself and to no padding. The
            published weights were trained with open_clip's mask, which is one position off: the
            class token attends to the first position after the text, and to itself only if the
            text fills the context.
        logit_scale_init_value: logarithm of the initial contrastive scale.
        caption_weight: weight of the captioning loss.
        contrastive_weight: weight of the contrastive loss; 0 skips the contrastive branch.
    """

    model_type = "coca"
    attribute_map = {  # noqa: RUF012  (the base class's own form)
        "num_hidden_layers": "decoder_layers",
        "num_attention_heads": "decoder_heads",
        "max_position_embeddings": "context_length",
    }

    image_size: int = 224
    patch_size: int = 32
    vision_hidden_size: int = 768
    vision_layers: int = 12
    vision_heads: int = 12
    pooler_queries: int = 256
    pooler_heads: int = 8
    hidden_size: int = 512
    text_layers: int = 12
    text_heads: int = 8
    decoder_layers: int = 12
    decoder_heads: int = 8
    mlp_ratio: float = 4.0
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5
    vocab_size: int = 49408
    context_length: int = 76
    filler_token_id: int = 0
    correct_cls_mask: bool = False
    logit_scale_init_value: float = 2.6592600
    caption_weight: float = 1.0
    contrastive_weight: float = 0.0
    bos_token_id: int = 49406
    eos_token_id: int = 49407
    pad_token_id: int = 49407
    tie_word_embeddings: bool = False
    use_cache: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        widths = {
            "vision_heads": self.vision_hidden_size,
            "pooler_heads": self.hidden_size,
            "text_heads": self.hidden_size,
            "decoder_heads": self.hidden_size,
        }
        for name, width in widths.items():
            if width % getattr(self, name):
                raise ValueError(f"{name}={getattr(self, name)} does not divide the width {width}")
        if self.image_size % self.patch_size:
            raise ValueError(
                f"patch_size={self.patch_size} does not divide image_size={self.image_size}"
            )

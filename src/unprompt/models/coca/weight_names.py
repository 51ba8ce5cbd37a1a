"""Names of CoCa's weights in open_clip and here, in pairs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from unprompt.models.coca.configuration import CoCaConfig


class Group(NamedTuple):
    """Weights of open_clip and of this model that are equal when stacked along the first axis.

    Attributes:
        theirs: keys of open_clip, equal parts of the stack.
        ours: keys of this model.
        transposed: open_clip keeps the matrix as (in, out), a linear layer as (out, in).
    """

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    transposed: bool = False


def groups(config: CoCaConfig) -> Iterator[Group]:
    """Yield every weight of the model, group by group."""
    yield Group(("logit_scale",), ("model.logit_scale",))
    yield from _image_tower(config)
    yield from _text_tower(config)
    yield from _decoder(config)


def _image_tower(config: CoCaConfig) -> Iterator[Group]:
    theirs, ours = "visual", "model.image"
    yield Group((f"{theirs}.class_embedding",), (f"{ours}.class_embedding",))
    yield Group((f"{theirs}.positional_embedding",), (f"{ours}.position_embedding",))
    yield Group((f"{theirs}.conv1.weight",), (f"{ours}.patches.weight",))
    yield Group((f"{theirs}.proj",), (f"{ours}.projection.weight",), True)
    yield from _weight_and_bias(f"{theirs}.ln_pre", f"{ours}.norm_pre")
    yield from _weight_and_bias(f"{theirs}.ln_post", f"{ours}.norm_post")
    for i in range(config.vision_layers):
        yield from _self_block(f"{theirs}.transformer.resblocks.{i}", f"{ours}.blocks.{i}")
    yield Group((f"{theirs}.attn_pool.query",), (f"{ours}.pooler.query",))
    yield from _weight_and_bias(f"{theirs}.attn_pool.ln_q", f"{ours}.pooler.norm_query")
    yield from _weight_and_bias(f"{theirs}.attn_pool.ln_k", f"{ours}.pooler.norm_image")
    yield from _cross_attention(
        f"{theirs}.attn_pool.attn",
        f"{ours}.pooler.attention",
        fused=config.vision_hidden_size == config.hidden_size,
    )


def _text_tower(config: CoCaConfig) -> Iterator[Group]:
    theirs, ours = "text", "model.text"
    yield Group((f"{theirs}.cls_emb",), (f"{ours}.class_embedding",))
    yield Group((f"{theirs}.positional_embedding",), (f"{ours}.position_embedding",))
    yield Group((f"{theirs}.token_embedding.weight",), (f"{ours}.token_embedding.weight",))
    yield Group((f"{theirs}.text_projection",), (f"{ours}.projection.weight",), True)
    yield from _weight_and_bias(f"{theirs}.ln_final", f"{ours}.norm")
    for i in range(config.text_layers):
        yield from _self_block(f"{theirs}.transformer.resblocks.{i}", f"{ours}.blocks.{i}")


def _decoder(config: CoCaConfig) -> Iterator[Group]:
    theirs, ours = "text_decoder", "model.decoder"
    yield Group((f"{theirs}.text_projection",), ("head.weight",), True)
    yield from _weight_and_bias(f"{theirs}.ln_final", f"{ours}.norm")
    for i in range(config.decoder_layers):
        yield from _self_block(f"{theirs}.resblocks.{i}", f"{ours}.self_blocks.{i}")
        yield from _cross_block(f"{theirs}.cross_attn.{i}", f"{ours}.cross_blocks.{i}")


def _self_block(theirs: str, ours: str) -> Iterator[Group]:
    for part in ("weight", "bias"):
        yield Group((f"{theirs}.attn.in_proj_{part}",), (f"{ours}.attention.qkv.{part}",))
    yield from _weight_and_bias(f"{theirs}.attn.out_proj", f"{ours}.attention.out")
    yield from _norms_and_mlp(theirs, ours)


def _cross_block(theirs: str, ours: str) -> Iterator[Group]:
    yield from _weight_and_bias(f"{theirs}.ln_1_kv", f"{ours}.norm_image")
    yield from _cross_attention(f"{theirs}.attn", f"{ours}.attention", fused=True)
    yield from _norms_and_mlp(theirs, ours)


def _cross_attention(theirs: str, ours: str, fused: bool) -> Iterator[Group]:
    """PyTorch's attention fuses its input matrices only if queries and keys have one width."""
    yield Group((f"{theirs}.in_proj_bias",), (f"{ours}.query.bias", f"{ours}.key_value.bias"))
    query, key_value = (f"{ours}.query.weight",), (f"{ours}.key_value.weight",)
    if fused:
        yield Group((f"{theirs}.in_proj_weight",), query + key_value)
    else:
        yield Group((f"{theirs}.q_proj_weight",), query)
        yield Group((f"{theirs}.k_proj_weight", f"{theirs}.v_proj_weight"), key_value)
    yield from _weight_and_bias(f"{theirs}.out_proj", f"{ours}.out")


def _norms_and_mlp(theirs: str, ours: str) -> Iterator[Group]:
    yield from _weight_and_bias(f"{theirs}.ln_1", f"{ours}.norm_1")
    yield from _weight_and_bias(f"{theirs}.ln_2", f"{ours}.norm_2")
    yield from _weight_and_bias(f"{theirs}.mlp.c_fc", f"{ours}.mlp.expand")
    yield from _weight_and_bias(f"{theirs}.mlp.c_proj", f"{ours}.mlp.contract")


def _weight_and_bias(theirs: str, ours: str) -> Iterator[Group]:
    for part in ("weight", "bias"):
        yield Group((f"{theirs}.{part}",), (f"{ours}.{part}",))

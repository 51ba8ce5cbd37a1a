"""Freeze a tower of CoCa, or its first blocks, for training."""

from __future__ import annotations

from typing import Any

from torch import nn

from unprompt.models.coca.modeling import CoCaForConditionalGeneration, CoCaModel

TOWERS = ("image", "text", "decoder")


def freeze(
    model: CoCaModel | CoCaForConditionalGeneration, tower: str, blocks: int | None = None
) -> None:
    """Exclude a tower, or its lower part, from training.

    Args:
        model: changed in place.
        tower: ``image``, ``text`` or ``decoder``.
        blocks: freeze this many first blocks and the embeddings below them. In the decoder, a
            block is a pair of self- and cross-attention. None freezes the whole tower, with its
            pooler and projection.

    Raises:
        ValueError: there is no such tower, or it has fewer blocks.
    """
    if tower not in TOWERS:
        raise ValueError(f"'{tower}': must be one of {', '.join(TOWERS)}")
    towers: nn.Module = getattr(model, "model", model)
    part: Any = getattr(towers, tower)
    if blocks is None:
        part.requires_grad_(False)
        return
    stacks = [part.self_blocks, part.cross_blocks] if tower == "decoder" else [part.blocks]
    if not 0 <= blocks <= len(stacks[0]):
        raise ValueError(f"the {tower} tower has {len(stacks[0])} blocks, not {blocks}")
    frozen: list[nn.Module | nn.Parameter] = [block for stack in stacks for block in stack[:blocks]]
    if blocks and tower != "decoder":
        frozen += [part.class_embedding, part.position_embedding]
        frozen += [part.patches, part.norm_pre] if tower == "image" else [part.token_embedding]
    for item in frozen:
        item.requires_grad_(False)

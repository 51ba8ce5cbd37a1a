"""The blocks of a backbone of any library: numbering, freezing, LoRA and checkpointing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from torch import nn

from unprompt.errors import UnpromptError
from unprompt.models.backbones import Backbone
from unprompt.models.model_names import split_library

_SAME_AS_BLOCK_BEFORE = (99999,)  # timm.models.MATCH_PREV_GROUP

_HF: dict[str, Any] = {
    "stem": r"^(?:.*\.)?(?:embeddings|embedder|rope_embeddings|pre_layrnorm)\.",
    "blocks": [
        (r"^.*?\b(?:layers?|stages|blocks)\.(\d+)\.(?:layers|blocks)\.(\d+)\.", None),
        (r"^.*?\blayers\.(\d+)\.downsample\.", _SAME_AS_BLOCK_BEFORE),
        (r"^.*?\b(?:layers?|stages|blocks)\.(\d+)\.", None),
        (r"^(?:.*\.)?(?:post_layernorm|layernorm|norm)\.", _SAME_AS_BLOCK_BEFORE),
    ],
}
"""Names of parameters in transformers' vision models; other parameters are above all blocks."""

_OPEN_CLIP: dict[str, Any] = {
    "stem": r"^(?:class_embedding|positional_embedding|conv\d|bn\d|ln_pre|patch)",
    "blocks": [
        (r"^transformer\.resblocks\.(\d+)\.", None),
        (r"^layer(\d+)\.(\d+)\.", None),
        (r"^ln_post\.", _SAME_AS_BLOCK_BEFORE),
    ],
}


@dataclass(frozen=True)
class Layers:
    """The layers of a backbone, numbered from the input up.

    Attributes:
        of: layer of each parameter, by the parameter's name in the backbone's network.
        blocks: the layers that are blocks, lowest first; the stem is below them, and pooling and
            projection are above.
    """

    of: dict[str, int]
    blocks: list[int]

    @property
    def top(self) -> int:
        """The highest layer."""
        return max(self.of.values())


def layers_of(backbone: Backbone) -> Layers:
    """The layers of a backbone, grouped as its library groups them.

    Models of timm state their groups (``group_matcher``); the encoder layers of transformers and
    the residual blocks of open_clip are known by their names. A final norm belongs to the last
    block; poolers and projections are a layer above it.
    """
    from timm.models import group_parameters

    network: Any = backbone.network
    prefix = ""
    library, _ = split_library(backbone.config.name)
    if library == "open_clip" and hasattr(network, "trunk"):
        network, prefix = network.trunk, "trunk."
    if hasattr(network, "group_matcher"):
        matcher = network.group_matcher(coarse=False)
    else:
        matcher = _OPEN_CLIP if library == "open_clip" else _HF
    of = group_parameters(network, matcher, reverse=True)
    patterns = matcher.get("blocks", ".") if isinstance(matcher, dict) else "."
    if isinstance(patterns, str):
        patterns = [(patterns, None)]
    own = [pattern for pattern, order in patterns if order != _SAME_AS_BLOCK_BEFORE]
    blocks = {layer for name, layer in of.items() if any(re.match(one, name) for one in own)}
    named = {prefix + name: layer for name, layer in of.items()}
    # Layers that open_clip adds to a trunk from timm.
    above = max(of.values()) + 1
    named |= {name: above for name, _ in backbone.network.named_parameters() if name not in named}
    return Layers(named, sorted(blocks))


def freeze(backbone: Backbone, blocks: int) -> None:
    """Freeze the first blocks of a backbone, and the layers below them.

    Args:
        backbone: changed in place.
        blocks: number of blocks; 0 freezes nothing, -1 the whole backbone, pooling included.

    Raises:
        UnpromptError: the backbone has fewer blocks.
    """
    if blocks < 0:
        backbone.requires_grad_(False)
    if blocks <= 0:
        return
    layers = layers_of(backbone)
    if blocks > len(layers.blocks):
        raise UnpromptError(
            f"backbone '{backbone.config.name}' has {len(layers.blocks)} blocks, so the first "
            f"{blocks} cannot be frozen; -1 freezes the whole backbone"
        )
    last = layers.blocks[blocks - 1]
    for name, parameter in backbone.network.named_parameters():
        if layers.of[name] <= last:
            parameter.requires_grad_(False)


def frozen_modules(network: nn.Module) -> list[nn.Module]:
    """The modules that have parameters, all of them frozen.

    Keep them in evaluation mode during training. Otherwise their batch norms would lose the
    statistics that the frozen weights were trained with.
    """
    found = []
    for module in network.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            found.append(module)
    return found


def adapt(backbone: Backbone, rank: int) -> None:
    """Train low-rank matrices, added to the backbone's linear layers, instead of its weights.

    This is LoRA (Hu et al. 2021, arXiv 2106.09685), by peft, on every linear layer and attention.
    Before training, the matrices change nothing.

    Args:
        backbone: changed in place.
        rank: rank of the matrices.

    Raises:
        UnpromptError: the backbone has no linear layer.
    """
    import peft

    network = backbone.network
    modules = dict(network.named_modules())
    attentions = [n for n, module in modules.items() if isinstance(module, nn.MultiheadAttention)]
    within = tuple(f"{name}." for name in attentions)
    linears = [
        name
        for name, module in modules.items()
        if isinstance(module, nn.Linear) and not name.startswith(within)
    ]
    if not (targets := [name for name in attentions + linears if name]):
        raise UnpromptError(
            f"backbone '{backbone.config.name}' has no linear layer for LoRA to adapt; set "
            "model.lora_rank=0 and freeze blocks instead"
        )
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets)
    peft.inject_adapter_in_model(config, network)


def merge(backbone: Backbone) -> None:
    """Add the matrices of `adapt` to the weights, in place."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    network = backbone.network
    adapters = [
        (name, module)
        for name, module in network.named_modules()
        # An attention's own projection is merged with the attention.
        if isinstance(module, BaseTunerLayer) and ".base_layer." not in name
    ]
    for name, adapter in adapters:
        if hasattr(adapter, "unload_and_optionally_merge_module"):
            layer = adapter.unload_and_optionally_merge_module(True, False, None)
        else:
            adapter.merge()
            layer = adapter.get_base_layer()
        network.set_submodule(name, layer)


def checkpoint_gradients(backbone: Backbone) -> None:
    """Recompute activations in the backward pass instead of keeping them, to save memory.

    Raises:
        UnpromptError: the backbone does not support it.
    """
    network: Any = backbone.network
    try:
        if hasattr(network, "gradient_checkpointing_enable"):
            network.gradient_checkpointing_enable({"use_reentrant": False})
        else:
            network.set_grad_checkpointing(True)
    except (AttributeError, AssertionError, NotImplementedError, ValueError) as error:
        raise UnpromptError(
            f"backbone '{backbone.config.name}' has no gradient checkpointing; set "
            "schedule.gradient_checkpointing=false"
        ) from error


def drop_patches(backbone: Backbone, share: float) -> None:
    """Leave out a random part of each image's patches in training, to save time.

    This is PatchDropout (Liu et al. 2022, arXiv 2208.07220; FLIP, Li et al. 2022, arXiv
    2212.00794), by timm. Evaluation mode uses all patches, and a saved model has no dropout.

    Args:
        backbone: changed in place.
        share: share of the patches to leave out, in [0, 1).

    Raises:
        UnpromptError: the backbone needs all of its patches.
    """
    from timm.layers import PatchDropout, PatchDropoutWithIndices
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer

    network: Any = backbone.network
    if not isinstance(network, VisionTransformer | Eva):
        raise UnpromptError(
            f"backbone '{backbone.config.name}' needs all of its patches; only timm's vision "
            "transformers and EVA can leave some out. Set model.patch_dropout=0"
        )
    # EVA rotates each patch by its position, so it needs to know which patches are left.
    dropout_class = PatchDropoutWithIndices if isinstance(network, Eva) else PatchDropout
    dropout = dropout_class(share, num_prefix_tokens=network.num_prefix_tokens)
    network.patch_drop = dropout.train(network.training)

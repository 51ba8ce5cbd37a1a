from __future__ import annotations

import pytest
import torch

from tests.models.conftest import SIZE
from tests.models.test_backbones import TINY
from unprompt.errors import UnpromptError
from unprompt.models.backbone_blocks import (
    adapt,
    checkpoint_gradients,
    drop_patches,
    freeze,
    frozen_modules,
    layers_of,
    merge,
)
from unprompt.models.backbones import Backbone, BackboneConfig, create_backbone

BLOCKS = {
    "timm-convolutions": 4,
    "timm-transformer": 6,
    "timm-fixed-size": 1,
    "hf-vit": 1,
    "hf-clip": 1,
    "hf_clip": 1,
    "hf-siglip": 1,
    "hf-resnet": 2,
    "open_clip-transformer": 1,
    "open_clip-resnet": 4,
}
"""Blocks of each of the small backbones."""


_THIN_VIT = {"depth": 3, "embed_dim": 32, "num_heads": 2}
NAMED = {
    "vit_large_patch14_clip_224.laion2b": (_THIN_VIT, 3),
    "eva02_large_patch14_clip_224": (_THIN_VIT, 3),
    "vit_large_patch16_224": (_THIN_VIT, 3),
    "deit_base_distilled_patch16_224": (_THIN_VIT, 3),
    "swin_large_patch4_window7_224": (
        {"depths": (1, 1, 2, 1), "embed_dim": 16, "num_heads": (1, 1, 2, 2)},
        5,
    ),
    "convnext_base": ({"depths": (1, 1, 2, 1), "dims": (8, 16, 32, 64)}, 5),
}
"""Models of timm that people train, made thin, and their blocks."""


def tiny(kind: str) -> Backbone:
    torch.manual_seed(0)
    return create_backbone(TINY[kind][0], pretrained=False, size=SIZE)


@pytest.mark.parametrize("kind", TINY)
def test_every_parameter_has_a_layer_and_layers_rise_with_depth(kind):
    backbone = tiny(kind)
    layers = layers_of(backbone)
    assert set(layers.of) == {name for name, _ in backbone.network.named_parameters()}
    assert len(layers.blocks) == BLOCKS[kind]
    assert layers.blocks == sorted(layers.blocks)
    assert min(layers.of.values()) == 0 < layers.blocks[0]
    assert set(layers.of.values()) == set(range(layers.top + 1))


def test_three_blocks_of_a_transformer_are_in_order():
    config = BackboneConfig("hf/x", TINY["hf-clip"][0].arguments | {"num_hidden_layers": 3})
    layers = layers_of(create_backbone(config, pretrained=False, size=SIZE))
    assert layers.blocks == [1, 2, 3]
    for name, layer in layers.of.items():
        if ".layers." in name:
            assert layer == 1 + int(name.split(".layers.")[1].split(".")[0]), name
        else:
            # A final norm belongs to the block below it.
            assert layer == (3 if "post_layernorm" in name else 0), name


@pytest.mark.parametrize("name", NAMED)
def test_the_models_that_people_train_freeze_block_by_block_at_another_size(name):
    arguments, blocks = NAMED[name]
    torch.manual_seed(0)
    config = BackboneConfig(f"timm/{name}", arguments)
    backbone = create_backbone(config, pretrained=False, size=112)
    layers = layers_of(backbone)
    assert layers.blocks == list(range(1, blocks + 1))
    freeze(backbone, 2)
    for parameter_name, parameter in backbone.network.named_parameters():
        assert parameter.requires_grad == (layers.of[parameter_name] > 2), parameter_name
    backbone(torch.randn(2, 3, 112, 112)).square().mean().backward()
    with pytest.raises(UnpromptError, match=f"has {blocks} blocks"):
        freeze(backbone, blocks + 1)


@pytest.mark.parametrize("kind", TINY)
def test_the_frozen_blocks_do_not_learn_and_the_others_do(kind):
    backbone = tiny(kind).train()
    freeze(backbone, 1)
    lowest = layers_of(backbone).blocks[0]
    for module in frozen_modules(backbone):
        module.eval()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    features = backbone(torch.randn(4, 3, SIZE, SIZE))
    # Some of the small backbones are one block, stem and norm included.
    if learning := [p for p in backbone.parameters() if p.requires_grad]:
        features.square().mean().backward()
        torch.optim.SGD(learning, lr=1.0).step()
    layers = layers_of(backbone)
    parameters = dict(backbone.network.named_parameters())
    for name, value in backbone.state_dict().items():
        bare = name.removeprefix("network.")
        owner = bare if bare in parameters else bare.rpartition(".")[0] + ".weight"
        if owner in layers.of and layers.of[owner] <= lowest:
            assert torch.equal(value, before[name]), f"{name} changed"
    moved = [n for n, p in parameters.items() if not torch.equal(p, before[f"network.{n}"])]
    assert bool(moved) == bool(learning)


def test_all_of_a_backbone_is_frozen_by_minus_one_and_none_by_zero():
    backbone = tiny("hf-siglip")
    freeze(backbone, 0)
    assert all(p.requires_grad for p in backbone.parameters())
    assert frozen_modules(backbone) == []
    freeze(backbone, -1)
    assert not any(p.requires_grad for p in backbone.parameters())
    assert backbone in frozen_modules(backbone)


def test_more_blocks_than_there_are():
    with pytest.raises(UnpromptError, match="has 6 blocks, so the first 7 cannot be frozen"):
        freeze(tiny("timm-transformer"), 7)


ADAPTABLE = [kind for kind in TINY if "resnet" not in kind and "convolutions" not in kind]


@pytest.mark.parametrize("kind", ADAPTABLE)
def test_lora_starts_as_the_backbone_learns_alone_and_merges_away(kind):
    backbone = tiny(kind).eval()
    pixels = torch.randn(2, 3, SIZE, SIZE)
    before = backbone(pixels)
    adapt(backbone, rank=2)
    backbone.eval()
    torch.testing.assert_close(backbone(pixels), before, rtol=0, atol=1e-5)
    learning = {name: p for name, p in backbone.named_parameters() if p.requires_grad}
    assert learning
    assert all("lora" in name for name in learning)
    with torch.no_grad():
        for parameter in learning.values():
            parameter.add_(0.05 * torch.randn_like(parameter))
    learned = backbone(pixels)
    assert (learned - before).abs().max() > 1e-3
    merge(backbone)
    assert not any("lora" in name for name in backbone.state_dict())
    again = create_backbone(backbone.config, pretrained=False, size=SIZE).eval()
    again.load_state_dict(backbone.state_dict())
    torch.testing.assert_close(again(pixels), learned, rtol=1e-3, atol=1e-4)


def test_lora_needs_a_linear_layer():
    with pytest.raises(UnpromptError, match="has no linear layer"):
        adapt(tiny("timm-convolutions"), rank=2)


@pytest.mark.parametrize("kind", ["timm-transformer", "hf-vit", "hf-clip", "open_clip-transformer"])
def test_gradients_are_the_same_with_checkpoints(kind):
    backbone = tiny(kind).train()
    pixels = torch.randn(2, 3, SIZE, SIZE)
    backbone(pixels).square().mean().backward()
    plain = {name: p.grad.clone() for name, p in backbone.named_parameters() if p.grad is not None}
    backbone.zero_grad()
    checkpoint_gradients(backbone)
    backbone(pixels).square().mean().backward()
    assert plain
    for name, parameter in backbone.named_parameters():
        if name in plain:
            torch.testing.assert_close(parameter.grad, plain[name], rtol=1e-4, atol=1e-7)


def tokens_of(backbone: Backbone) -> list[int]:
    """How many tokens each block gets from now on."""
    seen: list[int] = []
    for block in backbone.network.blocks:
        block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    return seen


@pytest.mark.parametrize(
    ("name", "arguments", "prefix"),
    [
        ("vit_tiny_patch16_224", {}, 1),
        ("vit_tiny_patch16_224", {"global_pool": "avg"}, 1),
        ("deit_tiny_distilled_patch16_224", {}, 2),
        ("eva02_tiny_patch14_224", {}, 1),
    ],
)
def test_patches_are_left_out_in_training_only(name, arguments, prefix):
    config = BackboneConfig(f"timm/{name}", {"depth": 2} | arguments)
    backbone = create_backbone(config, pretrained=False, size=4 * 16 if "16" in name else 4 * 14)
    pixels = torch.randn(2, 3, backbone.preprocessing.size, backbone.preprocessing.size)
    before, names = backbone.eval()(pixels), list(backbone.state_dict())
    drop_patches(backbone, 0.75)
    tokens = tokens_of(backbone)
    torch.testing.assert_close(backbone(pixels), before)
    assert tokens == [prefix + 16] * 2
    tokens.clear()
    drawn = []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        drawn.append(backbone.train()(pixels))
    assert tokens == [prefix + 4] * 6
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])
    drawn[0].square().sum().backward()
    assert backbone.network.patch_embed.proj.weight.grad.any()
    assert list(backbone.state_dict()) == names
    assert "patch_drop_rate" not in backbone.config.arguments


@pytest.mark.parametrize("kind", ["timm-convolutions", "hf-vit", "open_clip-transformer"])
def test_other_backbones_need_all_patches(kind):
    with pytest.raises(UnpromptError, match="needs all of its patches"):
        drop_patches(tiny(kind), 0.5)

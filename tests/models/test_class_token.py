from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModel, CLIPVisionModelWithProjection

from tests.models.conftest import SIZE
from unprompt.models.backbone_blocks import adapt, checkpoint_gradients, merge
from unprompt.models.backbones import BackboneConfig, create_backbone
from unprompt.models.class_token import only_class_token

CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "image_size": SIZE,
    "patch_size": 8,
    "projection_dim": 8,
}


def clip(projected: bool) -> nn.Module:
    settings: Any = AutoConfig.for_model(**CLIP)
    return CLIPVisionModelWithProjection(settings) if projected else AutoModel.from_config(settings)


def vit(**arguments: Any) -> nn.Module:
    arguments = {"img_size": SIZE, "num_classes": 0, "depth": 2} | arguments
    return timm.create_model("vit_tiny_patch16_224", **arguments)


NARROWED = {
    "timm": vit,
    "timm with layer scale, norms and registers": lambda: vit(
        init_values=0.1, qk_norm=True, scale_attn_norm=True, scale_mlp_norm=True, reg_tokens=2
    ),
    "timm, CLIP's": lambda: timm.create_model(
        "vit_base_patch16_clip_224",
        img_size=SIZE,
        num_classes=0,
        depth=2,
        embed_dim=64,
        num_heads=2,
    ),
    "CLIP": lambda: clip(False),
    "CLIP with projection": lambda: clip(True),
}


def features(network: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    output: Any = network(pixels)
    if isinstance(output, torch.Tensor):
        return output
    return output.image_embeds if "image_embeds" in output else output.pooler_output


@pytest.mark.parametrize("kind", NARROWED)
def test_features_and_gradients_are_those_of_the_whole_block_for_less_work(kind):
    torch.manual_seed(0)
    whole = NARROWED[kind]().double()
    narrow = copy.deepcopy(whole)
    assert only_class_token(narrow)
    assert narrow.state_dict().keys() == whole.state_dict().keys()
    narrow = pickle.loads(pickle.dumps(copy.deepcopy(narrow)))
    pixels = torch.randn(3, 3, SIZE, SIZE, dtype=torch.float64)
    work = []
    for network in (whole, narrow):
        with FlopCounterMode(display=False) as counter:
            output = features(network.train(), pixels)
            (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
        work.append(counter.get_total_flops())
    torch.testing.assert_close(features(narrow, pixels), features(whole, pixels))
    for (name, one), other in zip(whole.named_parameters(), narrow.parameters(), strict=True):
        if one.grad is None:
            assert other.grad is None, name
        else:
            torch.testing.assert_close(other.grad, one.grad, msg=lambda m, name=name: name + m)
    assert work[1] < 0.9 * work[0]


@pytest.mark.parametrize(
    "network",
    [
        lambda: vit(global_pool="avg"),
        lambda: vit(global_pool="map", class_token=False),
        lambda: timm.create_model("test_resnet", num_classes=0),
        lambda: timm.create_model(
            "deit_tiny_distilled_patch16_224", img_size=SIZE, num_classes=0, depth=1
        ),
        lambda: AutoModel.from_config(
            AutoConfig.for_model(**CLIP | {"model_type": "siglip_vision_model"})
        ),
    ],
    ids=["mean", "attention pool", "convolutions", "two tokens", "SigLIP"],
)
def test_networks_that_read_other_tokens_are_left_alone(network):
    assert not only_class_token(network())


def test_backbones_are_narrowed_and_stay_exact_adapted_checkpointed_and_merged():
    torch.manual_seed(0)
    config = BackboneConfig("timm/vit_tiny_patch16_224", {"depth": 2})
    narrow, whole = (create_backbone(config, pretrained=False, size=SIZE) for _ in "nw")
    whole.network = vit()
    for backbone in (narrow, whole):
        adapt(backbone, 4)
    whole.load_state_dict(narrow.state_dict())
    checkpoint_gradients(narrow)
    pixels = torch.randn(2, 3, SIZE, SIZE)
    for backbone in (narrow, whole):
        output = backbone.train()(pixels)
        (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
    learning = [
        (one.grad, other.grad)
        for one, other in zip(narrow.parameters(), whole.parameters(), strict=True)
        if one.requires_grad
    ]
    assert any(one.any() for one, _ in learning)
    for one, other in learning:
        torch.testing.assert_close(one, other)
    for backbone in (narrow, whole):
        merge(backbone)
    torch.testing.assert_close(narrow.eval()(pixels), whole.eval()(pixels))

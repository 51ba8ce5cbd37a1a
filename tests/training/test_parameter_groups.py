from __future__ import annotations

import pytest
import torch
from torch import nn

from unprompt.errors import RecipeError
from unprompt.models.backbone_blocks import adapt, freeze, layers_of
from unprompt.training.parameter_groups import by_decay, create_optimiser, parameter_groups
from unprompt.training.recipe import Optimiser
from unprompt.training.train_embedder import build


@pytest.mark.parametrize("backbone", ["timm/test_resnet", "timm/test_vit"])
def test_the_rate_falls_from_block_to_block(recipe, backbone):
    recipe.model.backbone = backbone
    model = build(recipe, 12)
    settings = Optimiser(learning_rate=1e-3, head_learning_rate=1e-2, layer_decay=0.5)
    groups = parameter_groups(model, settings)
    rate_of = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert len(rate_of) == len(list(model.parameters()))
    layers = layers_of(model.backbone)
    for name, parameter in model.backbone.network.named_parameters():
        expected = 1e-3 * 0.5 ** (layers.top - layers.of[name])
        assert rate_of[id(parameter)] == pytest.approx(expected), name
    assert {rate_of[id(p)] for p in model.head.parameters()} == {1e-2}
    stem = min(rate_of.values())
    assert stem == pytest.approx(1e-3 * 0.5**layers.top)


def test_the_first_step_of_each_layer_is_its_rate(recipe):
    """AdamW's first step moves every weight by its rate, whatever the gradient."""
    recipe.model.backbone = "timm/test_vit"
    model = build(recipe, 12)
    settings = Optimiser(learning_rate=1e-3, layer_decay=0.5, weight_decay=0)
    optimiser = create_optimiser(parameter_groups(model, settings), settings)
    layers = layers_of(model.backbone)
    before = {name: p.detach().clone() for name, p in model.backbone.network.named_parameters()}
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    model(pixels)[:, 0].sum().backward()
    optimiser.step()
    for name, parameter in model.backbone.network.named_parameters():
        step = (parameter - before[name]).abs().max().item()
        assert step == pytest.approx(1e-3 * 0.5 ** (layers.top - layers.of[name]), rel=0.02), name


def test_frozen_blocks_are_in_no_group_and_lora_is_alone(recipe):
    recipe.model.backbone = "timm/test_vit"
    model = build(recipe, 12)
    freeze(model.backbone, 5)
    names = {group["name"] for group in parameter_groups(model, Optimiser(layer_decay=0.9))}
    assert names == {"backbone 6", "head"}
    adapt(model.backbone, 2)
    groups = parameter_groups(model, Optimiser(layer_decay=0.9))
    assert {group["name"] for group in groups} == {f"backbone {n}" for n in range(1, 7)} | {"head"}
    shapes = {min(p.shape) for g in groups if g["name"] != "head" for p in g["params"]}
    assert shapes == {2}


@pytest.mark.parametrize("name", ["adamw", "lion", "madgrad", "sgd"])
def test_optimisers_descend(name):
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(4, 4))
    settings = Optimiser(name=name, learning_rate=0.05)
    optimiser = create_optimiser(by_decay([weight], 0.05, 0.0, "one"), settings)
    before = weight.square().sum().item()
    for _ in range(20):
        optimiser.zero_grad()
        weight.square().sum().backward()
        optimiser.step()
    assert weight.square().sum().item() < 0.8 * before


def test_the_optimiser_gets_what_the_recipe_states():
    groups = by_decay([nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))], 0.1, 0.3, "x")
    optimiser = create_optimiser(groups, Optimiser(betas=[0.8, 0.95]), (0.1, 0.2), 1e-3)
    assert isinstance(optimiser, torch.optim.AdamW)
    assert [group["weight_decay"] for group in optimiser.param_groups] == [0.3, 0.0]
    for group in optimiser.param_groups:
        assert (tuple(group["betas"]), group["eps"], group["lr"]) == ((0.8, 0.95), 1e-3, 0.1)


def test_optimisers_that_cannot_be():
    groups = by_decay([nn.Parameter(torch.ones(2, 2))], 0.1, 0.3, "x")
    with pytest.raises(RecipeError, match=r"name=adamv: no such optimiser; near: .*adam"):
        create_optimiser(groups, Optimiser(name="adamv"))
    with pytest.raises(RecipeError, match="madgrad has no betas"):
        create_optimiser(groups, Optimiser(name="madgrad", betas=[0.9, 0.99]))


def test_eight_bits_need_their_library(monkeypatch):
    groups = by_decay([nn.Parameter(torch.ones(2, 2))], 0.1, 0.3, "x")
    monkeypatch.setattr("unprompt.training.parameter_groups.find_spec", lambda name: None)
    with pytest.raises(RecipeError, match="adamw8bit needs bitsandbytes"):
        create_optimiser(groups, Optimiser(name="adamw8bit"))
    monkeypatch.setattr("unprompt.training.parameter_groups.find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RecipeError, match="adamw8bit runs only on a CUDA device"):
        create_optimiser(groups, Optimiser(name="adamw8bit"))

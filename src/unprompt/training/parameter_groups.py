"""Parameter groups, each with its learning rate and decay, and the optimiser over them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from unprompt.errors import RecipeError
from unprompt.models.backbone_blocks import layers_of
from unprompt.models.embedder import Embedder
from unprompt.training.recipe_sections import Optimiser

Group = dict[str, Any]
"""A parameter group of torch, with a ``name``."""

_BITSANDBYTES = {"adamw8bit": "bnbadamw8bit", "lion8bit": "bnblion8bit"}
_FUSED = ("adam", "adamw", "sgd")


def by_decay(
    parameters: Iterable[nn.Parameter], rate: float, decay: float, name: str
) -> list[Group]:
    """Groups of the trained parameters: matrices and kernels decay; biases and norms do not.

    Args:
        parameters: frozen ones are left out.
        rate: peak learning rate.
        decay: weight decay.
        name: of the groups.
    """
    learning = [p for p in parameters if p.requires_grad]
    groups = [
        {
            "params": [p for p in learning if (p.ndim > 1) == decays],
            "lr": rate,
            "weight_decay": decay if decays else 0.0,
            "name": name,
        }
        for decays in (True, False)
    ]
    return [group for group in groups if group["params"]]


def parameter_groups(model: Embedder, settings: Optimiser) -> list[Group]:
    """Parameters by part (the backbone's layers, the head) and by decay.

    With layer decay d the rate of the backbone's layer l of L is the backbone's times d^(L - l).
    """
    rate, decay = settings.learning_rate, settings.weight_decay
    groups: list[Group] = []
    if settings.layer_decay == 1:
        groups += by_decay(model.backbone.parameters(), rate, decay, "backbone")
    else:
        layers = layers_of(model.backbone)
        members: dict[int, list[nn.Parameter]] = {layer: [] for layer in range(layers.top + 1)}
        for name, parameter in model.backbone.network.named_parameters():
            members[layers.of[name]].append(parameter)
        for layer, parameters in members.items():
            scale = settings.layer_decay ** (layers.top - layer)
            groups += by_decay(parameters, rate * scale, decay, f"backbone {layer}")
    return groups + by_decay(model.head.parameters(), settings.head_learning_rate, decay, "head")


def create_optimiser(
    groups: list[Group],
    settings: Optimiser,
    betas: tuple[float, float] | None = None,
    epsilon: float | None = None,
) -> torch.optim.Optimizer:
    """Create the optimiser of a recipe with timm.

    Args:
        groups: parameter groups with their rates.
        settings: name of the optimiser, and its betas where the recipe states them.
        betas: used if the recipe states none; the optimiser's own by default.
        epsilon: the optimiser's own by default.

    Raises:
        RecipeError: there is no such optimiser, its library is not installed, it needs a GPU, or
            the recipe states betas and it has none.
    """
    from timm.optim import create_optimizer_v2, list_optimizers

    name = _BITSANDBYTES.get(settings.name, settings.name)
    known = [str(each) for each in (*list_optimizers(), *_BITSANDBYTES)]
    if name not in known:
        near = difflib.get_close_matches(settings.name, known, n=3)
        hint = f"near: {', '.join(near)}" if near else "timm.optim.list_optimizers() lists them"
        raise RecipeError(f"optimiser.name={settings.name}: no such optimiser; {hint}")
    if name.startswith("bnb") and find_spec("bitsandbytes") is None:
        raise RecipeError(
            f"optimiser.name={settings.name} needs bitsandbytes; run: pip install bitsandbytes"
        )
    if name.startswith("bnb") and not torch.cuda.is_available():
        raise RecipeError(
            f"optimiser.name={settings.name} runs only on a CUDA device; take another"
        )
    stated = tuple(settings.betas) if settings.betas else betas
    # One pass over the weights instead of a dozen.
    further: dict[str, Any] = {"fused": True} if name in _FUSED else {}
    if stated is not None:
        further["betas"] = stated
    if epsilon is not None:
        further["eps"] = epsilon
    optimiser: torch.optim.Optimizer = create_optimizer_v2(
        groups, opt=name, lr=settings.learning_rate, weight_decay=0.0, **further
    )
    # timm ignores arguments that an optimiser does not have.
    if settings.betas and "betas" not in optimiser.defaults:
        raise RecipeError(f"optimiser.name={settings.name} has no betas; leave optimiser.betas out")
    return optimiser

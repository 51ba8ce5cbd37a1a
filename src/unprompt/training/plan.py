"""The dry run of a recipe: parameter groups, steps and memory, without weights or a run folder."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from unprompt.errors import RecipeError
from unprompt.models.embedder import Embedder
from unprompt.models.preprocessing import Preprocessing
from unprompt.pairs.table import PairsTable, load
from unprompt.pairs.validation import find_problems, reported
from unprompt.training.data.augmentation import image_augmentation
from unprompt.training.data.decode_once import choose
from unprompt.training.data.images import TrainingImages
from unprompt.training.data.prepare import columns_of
from unprompt.training.data.sampling import PairSampler
from unprompt.training.embedding_loss import embedding_loss
from unprompt.training.parameter_groups import parameter_groups
from unprompt.training.recipe import Recipe, recipe_text
from unprompt.training.train_embedder import build, prepare_backbone
from unprompt.training.trainer import chosen_precision, steps_per_epoch

_STATE_BYTES = {"adamw": 8, "lion": 4, "madgrad": 12, "sgd": 4, "adamw8bit": 2, "lion8bit": 1}
"""Bytes that an optimiser keeps for each trained weight; other optimisers count as AdamW."""

_DIM = 384
"""Width of the default target encoder, for a table without embeddings."""


@dataclass(frozen=True)
class Plan:
    """What a run of a recipe would do.

    Attributes:
        recipe: with every value resolved.
        groups: name, number of weights, peak learning rate and weight decay of each parameter
            group.
        frozen: number of weights that are not trained.
        pairs: pairs that an epoch shows; None without a table, as are the next three.
        steps_per_epoch: optimiser steps of an epoch.
        steps: optimiser steps of the run.
        warmup: steps in which the learning rate rises.
        memory: estimated bytes on each device by purpose.
        decoding: a line on the images that `data.decode_once` caches; None without a table.
        problems: wrong ids, prompts and splits of the table; images are not checked.
    """

    recipe: Recipe
    groups: list[tuple[str, int, float, float]]
    frozen: int
    pairs: int | None
    steps_per_epoch: int | None
    steps: int | None
    warmup: int | None
    memory: dict[str, int]
    decoding: str | None
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [recipe_text(self.recipe).rstrip(), "", "parameter groups"]
        lines += [
            f"  {name:<14}{count:>14,} weights   learning rate {rate:.2e}   decay {decay:g}"
            for name, count, rate, decay in self.groups
        ]
        lines.append(f"  {'frozen':<14}{self.frozen:>14,} weights")
        lines += ["", "steps"]
        if self.pairs is None:
            lines.append(f"  unknown: {self.recipe.data.table} is not there")
        else:
            lines.append(
                f"  {self.steps:,} of {self._pairs_a_step():,} pairs, {self.steps_per_epoch:,} an "
                f"epoch of the {self.pairs:,} pairs to train on; {self.warmup:,} of warm-up"
            )
        lines += ["", "memory on each device (estimate)"]
        if self.recipe.schedule.fsdp:
            lines[-1] += "; schedule.fsdp divides all but activations by the processes"
        total = sum(self.memory.values())
        for name, size in [*self.memory.items(), ("total", total)]:
            lines.append(f"  {name:<14}{size / 2**30:>8.2f} GiB")
        if self.decoding is not None:
            lines += ["", self.decoding]
        if self.problems:
            lines += ["", *reported(self.recipe.data.table, self.problems)]
        return "\n".join(lines)

    def _pairs_a_step(self) -> int:
        schedule = self.recipe.schedule
        return schedule.batch_size * schedule.accumulation


def plan(recipe: Recipe) -> Plan:
    """Plan the run of an embedder.

    The model is built without weights (torch's ``meta`` device), so nothing is downloaded or
    computed, unless ``model.start`` names a model. Activations are those that autograd would keep
    for one batch.

    Raises:
        ModelNotFoundError: there is no such backbone, or its configuration cannot be downloaded.
        RecipeError: settings exclude each other, or the recipe is of a captioner or a decoder.
    """
    if recipe.learner != "embedder":
        raise RecipeError(f"a dry run plans embedders only; this recipe has a {recipe.learner}")
    data = recipe.data
    table = load(data.table, named=columns_of(data)) if Path(data.table).exists() else None
    dim = table.embeddings.shape[1] if table is not None and table.has("embedding") else _DIM
    unloaded = replace(recipe, model=replace(recipe.model, pretrained=False, checkpoint=None))
    # The model to start from is loaded with its weights, which are then dropped.
    with torch.device("meta" if recipe.model.start is None else "cpu"):
        model = build(unloaded, dim, with_class_names=False).to("meta")
    with torch.device("meta"):
        prepare_backbone(model, recipe)
        activations = _activations(model, recipe, dim)
    groups = [
        (group["name"], sum(p.numel() for p in group["params"]), group["lr"], group["weight_decay"])
        for group in parameter_groups(model, recipe.optimiser)
    ]
    learning = sum(count for _, count, _, _ in groups)
    total = sum(p.numel() for p in model.parameters())
    memory = {
        "weights": 4 * total,
        "gradients": 4 * learning,
        "optimiser": _STATE_BYTES.get(recipe.optimiser.name, 8) * learning,
        "average": 4 * total if recipe.optimiser.ema else 0,
        "activations": activations,
    }
    pairs, an_epoch, steps = _steps(recipe, table)
    warmup = recipe.optimiser.warmup_steps
    if warmup is None and steps is not None:
        warmup = round(recipe.optimiser.warmup * steps)
    return Plan(
        recipe,
        groups,
        total - learning,
        pairs,
        an_epoch,
        steps,
        warmup,
        {name: size for name, size in memory.items() if size},
        _decoding(recipe, table, steps, model.preprocessing),
        [] if table is None else list(find_problems(table, images="none")),
    )


def _decoding(
    recipe: Recipe, table: PairsTable | None, steps: int | None, preprocessing: Preprocessing
) -> str | None:
    """The images that the run would cache; without splits all images count as training images."""
    if table is None or steps is None:
        return None
    split = any(table.column("split"))
    known = table.of_split("train") if split else table
    unseen = table.of_split("val") if split else table.take([])
    crops = replace(preprocessing, size=recipe.data.train_size or preprocessing.size)
    whole = image_augmentation(recipe.data, crops.size) is None
    train, val = TrainingImages(known, crops, whole), TrainingImages(unseen, preprocessing, True)
    return choose(recipe, steps, train, val).line


def _steps(recipe: Recipe, table: PairsTable | None) -> tuple[int | None, int | None, int | None]:
    """Pairs to train on, steps of an epoch and of the run."""
    schedule, data = recipe.schedule, recipe.data
    if table is None:
        return None, None, None
    if any(table.column("split")):
        sampler = PairSampler(table.of_split("train"), data, recipe.seed, schedule.batch_size)
        pairs = len(sampler)
    else:
        pairs = round(len(table) * (1 - data.val - data.test))
    an_epoch = steps_per_epoch(recipe, pairs)
    steps = schedule.max_steps
    return pairs, an_epoch, steps if steps > 0 else math.ceil(schedule.epochs * an_epoch)


class _Attention(torch.autograd.Function):
    """Attention that keeps what a fused kernel keeps: inputs and output, but no score matrix."""

    @staticmethod
    def forward(*arguments: Any, **keywords: Any) -> Any:
        context, query, key, value = arguments
        output = torch.empty_like(query)
        context.save_for_backward(query, key, value, output)
        return output


class _FusedAttention(TorchFunctionMode):
    """Replaces attention on the ``meta`` device, which has no fused kernel, by `_Attention`."""

    def __torch_function__(
        self, function: Any, types: Any, arguments: Any = (), keywords: Any = None
    ) -> Any:
        if function is nn.functional.scaled_dot_product_attention:
            return _Attention.apply(*arguments[:3])
        return function(*arguments, **(keywords or {}))


def _activations(model: Embedder, recipe: Recipe, dim: int) -> int:
    """Bytes that autograd keeps from one forward pass until the backward pass."""
    size = recipe.data.train_size or model.preprocessing.size
    count = recipe.schedule.batch_size
    pixels = torch.zeros(count, 3, size, size, dtype=torch.uint8)
    owned = {id(item) for item in [*model.parameters(), *model.buffers()]}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        base: Any = tensor if tensor._base is None else tensor._base
        if id(base) not in owned and not isinstance(base, nn.Parameter):
            kept[id(base)] = base
        return tensor

    model.train()
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, _FusedAttention():
        embedding_loss(model(pixels, normalise=False), torch.zeros(count, dim), recipe.loss)
    total = sum(tensor.numel() * tensor.element_size() for tensor in kept.values())
    return total if chosen_precision(recipe) == "fp32" else total // 2

"""What a recipe would do: groups, steps and memory, without weights, pictures or a run folder."""

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
from unprompt.training.data.sampling import PairSampler
from unprompt.training.embedding_loss import embedding_loss
from unprompt.training.parameter_groups import parameter_groups
from unprompt.training.recipe import Recipe, recipe_text
from unprompt.training.run import build, prepare_backbone
from unprompt.training.trainer_arguments import chosen_precision, steps_per_epoch

_STATES = {"adamw": 8, "lion": 4, "madgrad": 12, "sgd": 4, "adamw8bit": 2, "lion8bit": 1}
"""Bytes that an optimiser keeps for each weight that learns; others are taken for AdamW."""

_DIM = 384
"""Width of the default target encoder, where no table says otherwise."""


@dataclass(frozen=True)
class Plan:
    """A recipe's consequences.

    Attributes:
        recipe: as resolved.
        groups: name, number of weights, peak learning rate and weight decay of each parameter
            group.
        frozen: weights that do not learn.
        pairs: rows of the training split, or None where the table is not there.
        steps_per_epoch: optimiser steps, likewise.
        steps: of the run, likewise.
        warmup: steps of them.
        memory: bytes on each device, by what they are for; an estimate.
        decoding: one line on what `data.decode_once` keeps, or None where the table is not there.
        problems: of the table, its images apart: ids, prompts and splits that cannot be right.
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
    """Work out what a recipe of an embedder would do.

    The model is built without weights (torch's ``meta`` device), so nothing is downloaded and
    nothing computed, unless ``model.start`` names a model to go on from; activations are those that
    autograd would keep for one batch.

    Raises:
        ModelNotFoundError: there is no such backbone, or its configuration cannot be had.
        RecipeError: the recipe cannot be followed, or is of a captioner or a decoder.
    """
    if recipe.captioner is not None or recipe.decoder is not None:
        raise RecipeError("a dry run plans embedders only; this recipe is of another model")
    table = load(recipe.data.table) if Path(recipe.data.table).exists() else None
    dim = table.embeddings.shape[1] if table is not None and table.has("embedding") else _DIM
    unloaded = replace(recipe, model=replace(recipe.model, pretrained=False, checkpoint=None))
    # A model to go on from is at hand and brings its weights, which are then let go.
    with torch.device("meta" if recipe.model.start is None else "cpu"):
        model = build(unloaded, dim, taught=False).to("meta")
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
        "optimiser": _STATES.get(recipe.optimiser.name, 8) * learning,
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
    """What the run would keep of its pictures.

    Of a table without splits all are counted as to train on, since splitting needs embeddings.
    """
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
    """What a fused kernel keeps of an attention: its inputs and its output, and no square."""

    @staticmethod
    def forward(*arguments: Any, **keywords: Any) -> Any:
        context, query, key, value = arguments
        output = torch.empty_like(query)
        context.save_for_backward(query, key, value, output)
        return output


class _FusedAttention(TorchFunctionMode):
    """Lets attention on the ``meta`` device, which has no fused kernel, keep what one keeps."""

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

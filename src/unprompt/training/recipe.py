"""Recipes: YAML files that define a whole training run, read into typed dataclasses.

Every field but ``data.table`` has a default. ``key=value`` overrides use dotted keys, as
``optimiser.learning_rate=1e-4``. Paths are relative to the current folder.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from unprompt.errors import RecipeError
from unprompt.files import atomic_open
from unprompt.training.recipe_sections import (
    Captioner,
    Data,
    Decoder,
    Head,
    Loss,
    Model,
    Optimiser,
    Schedule,
)

__all__ = [
    "Captioner",
    "Data",
    "Decoder",
    "Head",
    "Loss",
    "Model",
    "Optimiser",
    "Recipe",
    "Schedule",
    "load_recipe",
    "recipe_text",
    "save_recipe",
]


@dataclass
class Recipe:
    """A whole training run.

    Attributes:
        output: the run folder.
        seed: of initialisation, split, order and augmentation.
        report_to: ``none``, ``tensorboard`` or ``wandb``.
        captioner: its presence makes this the run of a captioner instead of an embedder.
        decoder: its presence makes this the run of a decoder.
    """

    output: str = "runs/unnamed"
    seed: int = 42
    report_to: Literal["none", "tensorboard", "wandb"] = "none"
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    loss: Loss = field(default_factory=Loss)
    optimiser: Optimiser = field(default_factory=Optimiser)
    schedule: Schedule = field(default_factory=Schedule)
    captioner: Captioner | None = None
    decoder: Decoder | None = None

    @property
    def learner(self) -> str:
        """Type of the trained model: ``embedder``, ``captioner`` or ``decoder``."""
        if self.decoder is not None:
            return "decoder"
        return "embedder" if self.captioner is None else "captioner"


def load_recipe(
    path: str | Path, overrides: list[str] | None = None, fold: int | None = None
) -> Recipe:
    """Read a recipe and apply ``key=value`` overrides.

    Args:
        path: the recipe, a YAML file.
        overrides: values to change, such as ``schedule.epochs=8``.
        fold: validate on this fold; the run goes to its folder ``fold-N``.

    Raises:
        RecipeError: there is no such file, it is not YAML, it has an unknown key (the error names
            the nearest known one) or a value of the wrong type, or it names no table.
    """
    path = Path(path)
    try:
        stated = OmegaConf.load(path)
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such recipe") from None
    except Exception as error:  # YAML's own errors differ by parser
        raise RecipeError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not OmegaConf.is_dict(stated):
        raise RecipeError(f"{path}: not a mapping of keys to values")
    changes = _parse(overrides or [])
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Recipe), stated, changes)
        recipe = OmegaConf.to_object(merged)
    except MissingMandatoryValue as error:
        raise RecipeError(f"{path}: {error.full_key} is missing") from error
    except ConfigKeyError as error:
        raise _unknown_key(path, error) from error
    except OmegaConfBaseException as error:
        where = f"{error.full_key}: " if error.full_key else ""
        raise RecipeError(f"{path}: {where}{str(error).splitlines()[0]}") from error
    assert isinstance(recipe, Recipe)  # noqa: S101 - a merge with the schema gives one
    _check(recipe, path)
    if fold is not None:
        recipe.data.fold = fold
        recipe.output = str(Path(recipe.output) / f"fold-{fold}")
    return recipe


def recipe_text(recipe: Recipe) -> str:
    """A recipe as YAML, with every value resolved."""
    return OmegaConf.to_yaml(OmegaConf.structured(recipe))


def save_recipe(recipe: Recipe, path: str | Path) -> None:
    """Write a recipe with every value resolved."""
    with atomic_open(path) as file:
        file.write(recipe_text(recipe))


def _parse(overrides: list[str]) -> DictConfig:
    for item in overrides:
        if not item.partition("=")[0] or "=" not in item:
            raise RecipeError(f"override '{item}': must be key=value, as schedule.epochs=8")
        try:
            OmegaConf.from_dotlist([item])
        except Exception as error:  # YAML's own errors differ by parser
            reason = " ".join(str(error).split())
            raise RecipeError(f"override '{item}': not YAML: {reason}") from error
    return OmegaConf.from_dotlist(overrides)


def _unknown_key(path: Path, error: ConfigKeyError) -> RecipeError:
    key = str(error.full_key)
    *_, name = key.split(".")
    owner: Any = error.object_type
    near = difflib.get_close_matches(name, _known(owner), 1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else "it knows " + ", ".join(_known(owner))
    if not near:
        elsewhere = [k for k in _all_keys(Recipe) if k.rsplit(".", 1)[-1] == name]
        hint = f"did you mean '{elsewhere[0]}'?" if elsewhere else hint
    return RecipeError(f"{path}: unknown key '{key}'; {hint}")


def _known(owner: Any) -> list[str]:
    return [item.name for item in fields(owner)]


def _all_keys(owner: Any, prefix: str = "") -> list[str]:
    keys = []
    for item in fields(owner):
        keys.append(prefix + item.name)
        default = item.default_factory
        if isinstance(default, type) and is_dataclass(default):
            keys += _all_keys(default, f"{prefix}{item.name}.")
    return keys


def _check(recipe: Recipe, path: Path) -> None:
    values = OmegaConf.structured(recipe)
    for key, fine in _bounds(recipe):
        if not fine:
            raise RecipeError(f"{path}: {key}={OmegaConf.select(values, key)} is out of range")
    if recipe.schedule.linear_probe and recipe.model.head.type == "mlp":
        raise RecipeError(
            f"{path}: schedule.linear_probe fits a linear or a classes head; change "
            "model.head.type, or take schedule.head_epochs instead"
        )
    if recipe.captioner is not None and recipe.decoder is not None:
        raise RecipeError(f"{path}: a recipe has a captioner or a decoder, not both; remove one")
    if recipe.learner != "embedder":
        plain = Recipe()
        for key in _EMBEDDER_KEYS:
            section, _, name = key.partition(".")
            if getattr(getattr(recipe, section), name) != getattr(getattr(plain, section), name):
                message = f"{key} is for embedders; this recipe has a {recipe.learner}"
                raise RecipeError(f"{path}: {message}")
    loss = recipe.loss
    if loss.cosine == loss.negatives == loss.mse == loss.contrastive == 0:
        raise RecipeError(f"{path}: every weight of loss is 0, so nothing is trained; raise one")


_EMBEDDER_KEYS = (
    "model.freeze",
    "model.lora_rank",
    "model.patch_dropout",
    "optimiser.ema",
    "optimiser.layer_decay",
    "optimiser.frozen_statistics",
    "schedule.linear_probe",
    "schedule.head_epochs",
    "schedule.gradient_checkpointing",
    "schedule.fsdp",
)
"""Keys that recipes of captioners and decoders must not set."""

_LEAST_VOCABULARY = 258
"""The 256 bytes and the two special tokens."""


def _bounds(recipe: Recipe) -> Iterator[tuple[str, bool]]:
    """Each key with a range, and whether its value lies in it."""
    data, model, loss = recipe.data, recipe.model, recipe.loss
    optimiser, schedule = recipe.optimiser, recipe.schedule
    yield "seed", 0 <= recipe.seed < 2**32
    yield "data.val", 0 < data.val < 1
    yield "data.test", 0 <= data.test < 1
    yield "data.threshold", 0 < data.threshold <= 1
    yield "data.workers", data.workers >= 0
    yield "data.train_size", data.train_size is None or data.train_size > 0
    yield "data.erase", 0 <= data.erase <= 1
    yield "data.flip", 0 <= data.flip <= 1
    yield "data.weights", all(0 <= weight < math.inf for weight in data.weights.values())
    yield "data.fold", data.fold is None or data.fold >= 0
    yield "model.size", model.size is None or model.size > 0
    yield "model.mean", model.mean is None or len(model.mean) == 3
    yield "model.std", model.std is None or (len(model.std) == 3 and min(model.std) > 0)
    yield "model.freeze", model.freeze >= -1
    yield "model.lora_rank", model.lora_rank >= 0
    yield "model.patch_dropout", 0 <= model.patch_dropout < 1
    yield "model.head.hidden", model.head.hidden > 0
    yield "model.head.landmarks", model.head.landmarks >= 0
    yield "model.head.dropout", 0 <= model.head.dropout < 1
    for key in ("cosine", "negatives", "mse", "contrastive"):
        yield f"loss.{key}", 0 <= getattr(loss, key) < math.inf
    yield "loss.margin", -1 <= loss.margin <= 1
    yield "loss.temperature", 0 < loss.temperature < math.inf
    yield "optimiser.learning_rate", 0 <= optimiser.learning_rate < math.inf
    yield "optimiser.head_learning_rate", 0 <= optimiser.head_learning_rate < math.inf
    yield "optimiser.layer_decay", 0 < optimiser.layer_decay <= 1
    yield "optimiser.weight_decay", 0 <= optimiser.weight_decay < math.inf
    betas = optimiser.betas
    yield "optimiser.betas", betas is None or all(0 <= beta < 1 for beta in betas)
    yield "optimiser.max_grad_norm", optimiser.max_grad_norm >= 0
    yield "optimiser.warmup", 0 <= optimiser.warmup < 1
    yield "optimiser.warmup_steps", (optimiser.warmup_steps or 0) >= 0
    yield "optimiser.final", 0 <= optimiser.final <= 1
    yield "optimiser.ema", 0 <= optimiser.ema < 1
    yield "schedule.head_epochs", schedule.head_epochs >= 0
    yield "schedule.epochs", 0 <= schedule.epochs < math.inf
    yield "schedule.max_steps", schedule.max_steps == -1 or schedule.max_steps > 0
    yield "schedule.batch_size", schedule.batch_size > 0
    yield "schedule.accumulation", schedule.accumulation > 0
    yield "schedule.evaluations", schedule.evaluations > 0
    yield "schedule.evaluate_every", schedule.evaluate_every is None or schedule.evaluate_every > 0
    yield "schedule.save_every", schedule.save_every is None or schedule.save_every > 0
    yield "schedule.patience", schedule.patience >= 0
    yield "schedule.keep", schedule.keep > 0
    if decoder := recipe.decoder:
        sizes = ("hidden_size", "layers", "heads", "prefix_length", "context_length", "num_beams")
        for name in sizes:
            yield f"decoder.{name}", getattr(decoder, name) > 0
        yield "decoder.vocab_size", decoder.vocab_size > _LEAST_VOCABULARY
        yield "decoder.dropout", 0 <= decoder.dropout < 1
        yield "decoder.exact", 0 <= decoder.exact <= 1
        yield "decoder.shrinkage", 0 <= decoder.shrinkage < 1
        yield "decoder.noise", 0 <= decoder.noise < math.inf

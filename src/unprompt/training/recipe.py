"""Recipes: a YAML file states a training run whole, as typed dataclasses.

Every field has a default but the table. ``key=value`` overrides use dotted keys:
``optimiser.learning_rate=1e-4``. Paths are relative to the current folder.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from unprompt.errors import RecipeError
from unprompt.files import atomic_open

# The 256 bytes and the two special tokens.
_LEAST_VOCABULARY = 258


@dataclass
class Data:
    """Which pairs, and how they are split when the table does not say.

    Attributes:
        table: the pairs table (Parquet or JSON lines).
        val: share of pairs for validation, in groups, when the table has no split.
        test: share of pairs for the test.
        threshold: cosine at and above which two prompts belong to one group.
        train_size: side of the training crops in pixels, where smaller than the model's input.
            Crops show things larger than whole images do, so a model tests best at a higher
            resolution than it trains at (Touvron et al. 2019, arXiv 1906.06423); training on small
            crops is also cheap.
        augment: ``none``; ``crop``: random crops of 90 to 100 % of the area, as open_clip trains;
            or ``mild``: smaller crops and small changes of colour. No flip: prompts say 'left',
            and pictures hold text.
        workers: processes that decode images; 0 decodes in the training process.
    """

    table: str = MISSING
    val: float = 0.05
    test: float = 0.1
    threshold: float = 0.7
    train_size: int | None = None
    augment: Literal["none", "crop", "mild"] = "mild"
    workers: int = 2


@dataclass
class Head:
    """The head of the embedder; see `unprompt.models.embedder.HeadConfig`."""

    kind: Literal["linear", "mlp"] = "linear"
    hidden: int = 16_384
    dropout: float = 0.0


@dataclass
class Model:
    """The embedder to fine-tune.

    Attributes:
        start: a trained embedder to go on from, ``builtin``, a folder or a hub repository; its
            backbone and input size then stand in place of the keys below that say them.
        backbone: ``timm/…``, ``hf/…`` or ``open_clip/…``.
        checkpoint: file with the backbone's weights (timm only); the library's own otherwise.
        pretrained: start from pretrained weights; false starts from random ones.
        arguments: keyword arguments of timm's ``create_model``, or the configuration of an hf or
            open_clip model that is not pretrained.
        size: side of the input in pixels; the backbone's own by default.
        mean: per-channel mean for values in [0, 1]; the backbone's own by default.
        std: per-channel standard deviation; the backbone's own by default.
        head: the head.
        encoder: the target encoder.
    """

    start: str | None = None
    backbone: str = "timm/vit_base_patch16_clip_224.openai"
    checkpoint: str | None = None
    pretrained: bool = True
    arguments: dict[str, Any] = field(default_factory=dict)
    size: int | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    head: Head = field(default_factory=Head)
    encoder: str = "sentence-transformers/all-MiniLM-L6-v2"


@dataclass
class Optimiser:
    """AdamW with a cosine schedule.

    Attributes:
        learning_rate: peak learning rate of the backbone.
        head_learning_rate: peak learning rate of the head.
        weight_decay: of weight matrices; biases and norms have none.
        warmup: share of the steps in which the rate rises from zero.
        warmup_steps: the same as a number of steps, which then goes before the share.
        max_grad_norm: gradients are clipped to this norm; 0 does not clip.
        frozen_statistics: batch norms keep the running statistics of the pretrained weights.
    """

    learning_rate: float = 3e-5
    head_learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.1
    warmup_steps: int | None = None
    max_grad_norm: float = 1.0
    frozen_statistics: bool = False


@dataclass
class Schedule:
    """How long, how much at a time, and how often to look and to save.

    Attributes:
        probe: before the first step, fit the linear head on the frozen backbone's features.
        epochs: passes over the training split.
        max_steps: stop after this many optimiser steps; -1 goes by ``epochs``.
        batch_size: pairs in a step on one device.
        accumulation: steps whose gradients are summed before the optimiser moves.
        precision: ``fp32``, ``bf16`` or ``fp16`` (mixed), or ``auto``: bf16 where the device has
            instructions for it, else fp32.
        evaluations: looks at the validation split; each also saves a checkpoint.
        keep: checkpoints to keep, the best one besides.
    """

    probe: bool = False
    epochs: float = 4
    max_steps: int = -1
    batch_size: int = 64
    accumulation: int = 1
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    evaluations: int = 4
    keep: int = 2


@dataclass
class Captioner:
    """The captioner to fine-tune; its presence in a recipe makes the run a captioner's.

    Attributes:
        model: folder or hub repository of a CoCa saved by unprompt; or ``open_clip/NAME``, a model
            of open_clip, with ``pretrained``; or empty for random weights of ``arguments``.
        pretrained: tag or file of the weights of an ``open_clip/`` model.
        arguments: fields of `unprompt.models.coca.CoCaConfig` for random weights.
        caption_weight: of the captioning loss.
        contrastive_weight: of the contrastive loss; at 0 its branch is not computed.
        freeze: for ``image``, ``text`` and ``decoder`` the number of first blocks that do not
            learn; -1 freezes the whole tower.
        lora_rank: adapt attention by matrices of this rank instead of the weights; 0 does not.
            The saved model has them merged.
        gradient_checkpointing: recompute activations to save memory.
        num_beams: beams of the captions that are evaluated.
    """

    model: str = ""
    pretrained: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    caption_weight: float = 1.0
    contrastive_weight: float = 0.0
    freeze: dict[str, int] = field(default_factory=dict)
    lora_rank: int = 0
    gradient_checkpointing: bool = False
    num_beams: int = 4


@dataclass
class Decoder:
    """The decoder to train; its presence in a recipe makes the run a decoder's.

    Its texts are ``data.table``: a text file, one prompt a line, or a pairs table.

    Attributes:
        vocab_size: tokens of the vocabulary, which is learned from the texts.
        lowercase: leave case out of it; right where the target encoder does not tell case.
        hidden_size: width of the transformer.
        layers: its blocks.
        heads: attention heads of each.
        prefix_length: tokens that the embedding is projected to.
        context_length: tokens of a text at most; longer ones are cut off.
        dropout: in training.
        start_from_encoder: begin with the target encoder's own embeddings of the tokens.
        exact: share of the training embeddings that are as the encoder made them.
        lean: the others are drawn towards the mean by up to this share,
        noise: and get noise of up to this norm.
        num_beams: beams of the texts that are evaluated.
    """

    vocab_size: int = 6144
    lowercase: bool = True
    hidden_size: int = 256
    layers: int = 4
    heads: int = 4
    prefix_length: int = 4
    context_length: int = 64
    dropout: float = 0.0
    start_from_encoder: bool = True
    exact: float = 0.3
    lean: float = 0.7
    noise: float = 0.6
    num_beams: int = 4


@dataclass
class Recipe:
    """A training run, whole.

    Attributes:
        output: the run folder.
        seed: of initialisation, split, order and augmentation.
        report_to: ``none``, ``tensorboard`` or ``wandb``.
        captioner: fine-tune a captioner instead of the embedder of ``model``.
        decoder: train a decoder instead.
    """

    output: str = "runs/unnamed"
    seed: int = 42
    report_to: Literal["none", "tensorboard", "wandb"] = "none"
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    optimiser: Optimiser = field(default_factory=Optimiser)
    schedule: Schedule = field(default_factory=Schedule)
    captioner: Captioner | None = None
    decoder: Decoder | None = None


def load_recipe(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe and apply ``key=value`` overrides.

    Raises:
        RecipeError: no such file, not YAML, an unknown key (the nearest known one is named), a
            value of the wrong type, or no table.
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
    assert isinstance(recipe, Recipe)  # noqa: S101 - what a merge with the schema gives
    _check(recipe, path)
    return recipe


def save_recipe(recipe: Recipe, path: str | Path) -> None:
    """Write a recipe with every value as it was resolved."""
    with atomic_open(path) as file:
        file.write(OmegaConf.to_yaml(OmegaConf.structured(recipe)))


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
    bounds = {
        "data.val": 0 < recipe.data.val < 1,
        "data.test": 0 <= recipe.data.test < 1,
        "data.threshold": 0 < recipe.data.threshold <= 1,
        "data.workers": recipe.data.workers >= 0,
        "data.train_size": recipe.data.train_size is None or recipe.data.train_size > 0,
        "seed": 0 <= recipe.seed < 2**32,
        "model.size": recipe.model.size is None or recipe.model.size > 0,
        "model.mean": recipe.model.mean is None or len(recipe.model.mean) == 3,
        "model.std": recipe.model.std is None
        or (len(recipe.model.std) == 3 and min(recipe.model.std) > 0),
        "model.head.hidden": recipe.model.head.hidden > 0,
        "model.head.dropout": 0 <= recipe.model.head.dropout < 1,
        "schedule.batch_size": recipe.schedule.batch_size > 0,
        "schedule.accumulation": recipe.schedule.accumulation > 0,
        "schedule.evaluations": recipe.schedule.evaluations > 0,
        "schedule.keep": recipe.schedule.keep > 0,
        "schedule.epochs": 0 < recipe.schedule.epochs < math.inf,
        "schedule.max_steps": recipe.schedule.max_steps == -1 or recipe.schedule.max_steps > 0,
        "optimiser.learning_rate": 0 <= recipe.optimiser.learning_rate < math.inf,
        "optimiser.head_learning_rate": 0 <= recipe.optimiser.head_learning_rate < math.inf,
        "optimiser.weight_decay": 0 <= recipe.optimiser.weight_decay < math.inf,
        "optimiser.max_grad_norm": recipe.optimiser.max_grad_norm >= 0,
        "optimiser.warmup": 0 <= recipe.optimiser.warmup < 1,
        "optimiser.warmup_steps": (recipe.optimiser.warmup_steps or 0) >= 0,
    }
    if decoder := recipe.decoder:
        sizes = ("hidden_size", "layers", "heads", "prefix_length", "context_length", "num_beams")
        bounds |= {f"decoder.{name}": getattr(decoder, name) > 0 for name in sizes}
        bounds |= {
            "decoder.vocab_size": decoder.vocab_size > _LEAST_VOCABULARY,
            "decoder.dropout": 0 <= decoder.dropout < 1,
            "decoder.exact": 0 <= decoder.exact <= 1,
            "decoder.lean": 0 <= decoder.lean < 1,
            "decoder.noise": 0 <= decoder.noise < math.inf,
        }
    for key, fine in bounds.items():
        if not fine:
            value = OmegaConf.select(OmegaConf.structured(recipe), key)
            raise RecipeError(f"{path}: {key}={value} is out of range")
    if recipe.schedule.probe and recipe.model.head.kind != "linear":
        raise RecipeError(
            f"{path}: schedule.probe fits a linear head; set model.head.kind=linear or "
            "schedule.probe=false"
        )

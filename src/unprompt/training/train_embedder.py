"""Training an embedder: the model to start from, its head first, then its trainer and scores."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from unprompt.evaluating.evaluation import Evaluation, Reference, evaluate, reference_of
from unprompt.evaluating.fit_calibration import calibrate_bank
from unprompt.models.backbone_blocks import adapt, checkpoint_gradients, drop_patches, freeze
from unprompt.models.backbones import BackboneConfig, create_backbone, load_classifier
from unprompt.models.bank.bank import Bank
from unprompt.models.embedder import Embedder, EmbedderConfig
from unprompt.models.heads import ClassesHead, HeadConfig
from unprompt.pairs.prompt_file import prompts_of
from unprompt.pairs.table import PairsTable
from unprompt.predicting.loading import BUILTIN, builtin_folder, load_model
from unprompt.training.data.dataset import PairsDataset
from unprompt.training.data.decode_once import cache_images
from unprompt.training.data.features import features_of
from unprompt.training.embedder_trainer import EmbedderTrainer
from unprompt.training.head.classes import set_classes
from unprompt.training.head.gradient import fit_by_gradient
from unprompt.training.head.linear_probe import fit_linear_probe
from unprompt.training.recipe import Model, Recipe
from unprompt.training.resources import first_process_first
from unprompt.training.run_folder import LOG_FILE, MODEL_FOLDER, save_scores
from unprompt.training.trainer import last_checkpoint, train_to_end


def fit(recipe: Recipe, table: PairsTable, folder: Path) -> dict[str, Evaluation]:
    """Train an embedder, or resume its run, and measure it.

    Args:
        recipe: the run; with ``schedule.epochs`` 0 only its head is fitted.
        table: pairs with embeddings and splits.
        folder: the run folder, claimed.

    Returns:
        Evaluations on ``val`` and, where there is one, ``test``; none in other processes than the
        first.
    """
    if not recipe.schedule.epochs:
        with first_process_first() as is_first:
            return _fit_head_only(recipe, table, folder) if is_first else {}
    checkpoint = last_checkpoint(folder)
    trainer = create_trainer(recipe, table, fit_head=checkpoint is None)
    train_to_end(trainer, checkpoint)
    with first_process_first() as is_first:
        if not is_first:
            return {}
        best = Embedder.from_pretrained(trainer.best_checkpoint())
        best.save_pretrained(folder / MODEL_FOLDER)
        return _measure(folder, table)


def _fit_head_only(recipe: Recipe, table: PairsTable, folder: Path) -> dict[str, Evaluation]:
    model = build(recipe, dim=table.embeddings.shape[1])
    _fit_head(model, table, recipe)
    model.save_pretrained(folder / MODEL_FOLDER)
    found = features_of(model, table.of_split("train"))  # the head was fitted on these
    return _measure(folder, table, Reference(found.embeddings, found.values))


def _measure(
    folder: Path, table: PairsTable, reference: Reference | None = None
) -> dict[str, Evaluation]:
    """Evaluate the model of a run folder, and give it a calibrated bank."""
    model = load_model(folder / MODEL_FOLDER)
    known = table.of_split("train")
    reference = reference or reference_of(model, known)
    splits = [split for split in ("val", "test") if split in set(table.column("split"))]
    scores = {split: evaluate(model, table, split, reference) for split in splits}
    bank = Bank.build(known.prompts, known.embeddings, model.encoder)
    bank.calibrated(calibrate_bank(bank, scores["val"])[0]).save(folder / MODEL_FOLDER)
    save_scores(folder, {split: score.to_dict() for split, score in scores.items()})
    return scores


def build(recipe: Recipe, dim: int, with_class_names: bool = True) -> Embedder:
    """The embedder that a recipe starts from.

    Args:
        recipe: the run.
        dim: width of its prompt embeddings.
        with_class_names: set the class names and the prior of a new ``classes`` head, which needs
            the target encoder; otherwise such a head only has the right shapes.

    Raises:
        ModelNotFoundError: the backbone or the model to start from is not here and cannot be
            downloaded.
    """
    settings = recipe.model
    head = HeadConfig(
        settings.head.type or "linear",
        settings.head.hidden,
        settings.head.dropout,
        landmarks=settings.head.landmarks,
    )
    if settings.start is not None:
        return _from_embedder(settings.start, head, dim, recipe)
    backbone = create_backbone(
        BackboneConfig(settings.backbone, settings.arguments),
        settings.pretrained,
        settings.checkpoint,
        settings.size,
    )
    config = EmbedderConfig(backbone.config, head, dim, settings.encoder)
    preprocessing = backbone.preprocessing
    if settings.mean is not None:
        preprocessing = replace(preprocessing, mean=tuple(settings.mean))
    if settings.std is not None:
        preprocessing = replace(preprocessing, std=tuple(settings.std))
    model = Embedder(config, backbone, preprocessing)
    if with_class_names:
        _set_classes(model, settings)
    # Convolutions run faster on this layout; for everything else it makes no difference.
    return model.to(memory_format=torch.channels_last)


def _from_embedder(start: str, head: HeadConfig, dim: int, recipe: Recipe) -> Embedder:
    """An embedder with the backbone of another, and with its head if that is of the same shape.

    A recipe without ``model.head.type`` keeps the other's head.
    """
    before = Embedder.from_pretrained(builtin_folder() if start == BUILTIN else start)
    if recipe.model.head.type is None:
        head = before.architecture.head
    config = replace(before.architecture, head=head, dim=dim, encoder=recipe.model.encoder)
    size = recipe.model.size or before.preprocessing.size
    model = Embedder(config, before.backbone, replace(before.preprocessing, size=size))
    if config == before.architecture:
        model.head.load_state_dict(before.head.state_dict())
    elif recipe.model.head.type == "classes":
        _set_classes(model, recipe.model)
    return model.to(memory_format=torch.channels_last)


def _set_classes(model: Embedder, settings: Model) -> None:
    """Give a head of classes its backbone's classifier, the class names and the prior."""
    if isinstance(model.head, ClassesHead):
        backbone = model.architecture.backbone
        classifier = load_classifier(backbone, settings.pretrained, settings.checkpoint)
        prior = settings.head.prior
        prompts = prompts_of(prior) if prior else ()
        set_classes(model.head, classifier, settings.encoder, prompts)


def create_trainer(recipe: Recipe, table: PairsTable, fit_head: bool = True) -> EmbedderTrainer:
    """A trainer before its first step.

    Args:
        recipe: the run.
        table: pairs with embeddings and splits.
        fit_head: fit or train the head first, where the recipe says so.

    Raises:
        TableError: a split is missing, or none of its images can be decoded.
        ModelNotFoundError: as `build`.
    """
    model = build(recipe, dim=table.embeddings.shape[1])
    with first_process_first() as is_first:
        # The other processes get the head when their models are made equal.
        if fit_head and is_first:
            _fit_head(model, table, recipe)
    prepare_backbone(model, recipe)
    crops = replace(model.preprocessing, size=recipe.data.train_size or model.preprocessing.size)
    train = PairsDataset(table.of_split("train"), crops, recipe.data)
    val = PairsDataset(table.of_split("val"), model.preprocessing)
    trainer = EmbedderTrainer(recipe, model, train, val)
    cache_images(recipe, trainer.args.max_steps, train.images, val.images)
    return trainer


def _fit_head(model: Embedder, table: PairsTable, recipe: Recipe) -> None:
    """The first step of LP-FT, where the recipe says so; begins the log."""
    schedule = recipe.schedule
    log: dict[str, float] = {}
    train, val = table.of_split("train"), table.of_split("val")
    if schedule.linear_probe:
        penalty, cosine = fit_linear_probe(model, train, val)
        log |= {"linear_probe_penalty": penalty, "linear_probe_cosine": cosine}
        sys.stderr.write(f"fitted head: cosine on val {cosine:.4f}\n")
    if schedule.head_epochs:
        rate = recipe.optimiser.head_learning_rate
        cosine = fit_by_gradient(
            model, train, val, schedule.head_epochs, learning_rate=rate, seed=recipe.seed
        )
        log["head_cosine"] = cosine
        sys.stderr.write(f"trained head: cosine on val {cosine:.4f}\n")
    if log:
        path = Path(recipe.output) / LOG_FILE
        path.write_text(json.dumps({"step": 0} | log) + "\n", encoding="utf-8")


def prepare_backbone(model: Embedder, recipe: Recipe) -> None:
    """Freeze blocks, add LoRA, drop patches and checkpoint gradients as the recipe says.

    Raises:
        UnpromptError: the backbone does not support it.
    """
    settings = recipe.model
    freeze(model.backbone, settings.freeze)
    if settings.lora_rank:
        adapt(model.backbone, settings.lora_rank)
    if settings.patch_dropout:
        drop_patches(model.backbone, settings.patch_dropout)
    if recipe.schedule.gradient_checkpointing:
        checkpoint_gradients(model.backbone)

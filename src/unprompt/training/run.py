"""A training run, from a recipe to a measured model folder."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import transformers

from unprompt.curating.encode_file import with_embeddings
from unprompt.curating.split import split_by_group
from unprompt.errors import RecipeError, TableError, need
from unprompt.evaluating.evaluation import Evaluation, Reference, evaluate, reference_of
from unprompt.evaluating.fit_calibration import calibrate_bank
from unprompt.files import atomic_open
from unprompt.models.backbone_blocks import adapt, checkpoint_gradients, drop_patches, freeze
from unprompt.models.backbones import BackboneConfig, create_backbone, load_classifier
from unprompt.models.bank.bank import Bank
from unprompt.models.embedder import Embedder, EmbedderConfig
from unprompt.models.heads import ClassesHead, HeadConfig
from unprompt.pairs.prompt_file import prompts_of
from unprompt.pairs.table import PairsTable, load, save
from unprompt.predicting.loading import BUILTIN, builtin_folder, load_model
from unprompt.training.callbacks import LOG_FILE
from unprompt.training.data.dataset import PairsDataset
from unprompt.training.data.decode_once import cache_images
from unprompt.training.data.features import features_of
from unprompt.training.head.classes import set_classes
from unprompt.training.head.linear_probe import fit_by_gradient, fit_linear_probe
from unprompt.training.plots import plot
from unprompt.training.provenance import note_call
from unprompt.training.recipe import Recipe, recipe_text, save_recipe
from unprompt.training.recipe_sections import Model
from unprompt.training.resources import explained, first_process_first, freed_memory_kept
from unprompt.training.train_embedder import EmbedderTrainer
from unprompt.training.trainer import FAILURES_FILE, last_checkpoint, train_to_end

RECIPE_FILE = "recipe.yaml"
TABLE_FILE = "pairs.parquet"
SCORES_FILE = "scores.json"


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: the run folder: ``recipe.yaml`` as resolved, ``pairs.parquet`` with embeddings,
            groups and splits, ``calls.jsonl`` (versions, code, device and data of each call),
            ``metrics.jsonl``, ``loss.png``, ``score.png``, ``checkpoints/``, ``model/``,
            ``scores.json``.
        model: the model folder, for `unprompt.predict` and `Embedder.from_pretrained`; its bank
            are the prompts of the training split.
        scores: evaluations on ``val`` and, where there is one, ``test``; of the first process only.
        failures: one line for each image that could not be read, and so was passed over.
    """

    folder: Path
    model: Path
    scores: dict[str, Evaluation]
    failures: list[str] = field(default_factory=list)


def train(recipe: Recipe, fresh: bool = False) -> Run:
    """Run a recipe, or go on with it where an earlier call was stopped.

    Under torchrun every process calls this, and all return the same.

    Args:
        recipe: the run.
        fresh: discard what an earlier call left in the run folder.

    Raises:
        RecipeError: the run folder holds the run of another recipe.
        TableError: the table cannot be used: not there, no pairs for a split.
        ModelNotFoundError: the backbone cannot be had.
        MissingExtraError: what ``report_to`` names is not installed.
        TrainingError: the loss is not a number, memory or disk ran out; or, as `StoppedError`, a
            signal came.
    """
    if recipe.report_to != "none":
        need("all", recipe.report_to)
    folder = Path(recipe.output)
    with first_process_first() as is_first:
        if is_first:
            _claim(folder, recipe, fresh)
        transformers.set_seed(recipe.seed)
        # A decoder learns from texts alone, which need no table.
        table = None if recipe.decoder else prepare(recipe, folder)
        if is_first:
            note_call(folder, table or Path(recipe.data.table))
    with explained(recipe), freed_memory_kept():
        try:
            scores = _train(recipe, table, folder)
        except TableError as error:
            # One of a decoding process brings its traceback as text; the last line is the message.
            raise TableError(str(error).strip().rpartition("TableError: ")[2]) from error
        finally:
            if is_first:
                plot(folder)
    return Run(folder, folder / "model", scores, _failures(folder, scores))


def _train(recipe: Recipe, table: PairsTable | None, folder: Path) -> dict[str, Evaluation]:
    if table is None:
        from unprompt.training.train_decoder import train_decoder

        train_decoder(recipe, folder)
        return {}
    if recipe.captioner is not None:
        from unprompt.training.train_captioner import train_captioner

        return train_captioner(recipe, table, folder)
    return _train_embedder(recipe, table, folder)


def _train_embedder(recipe: Recipe, table: PairsTable, folder: Path) -> dict[str, Evaluation]:
    if not recipe.schedule.epochs:
        with first_process_first() as is_first:
            return _fit_only(recipe, table, folder) if is_first else {}
    with first_process_first():
        checkpoint = last_checkpoint(folder / "checkpoints")
    trainer = start(recipe, table, fit=checkpoint is None)
    train_to_end(trainer, checkpoint)
    with first_process_first() as is_first:
        if is_first:
            best = Embedder.from_pretrained(trainer.best_checkpoint())
            best.save_pretrained(folder / "model")
            return _measure(folder, table)
    return {}


def _fit_only(recipe: Recipe, table: PairsTable, folder: Path) -> dict[str, Evaluation]:
    """The model with its fitted head and nothing else learned."""
    model = build(recipe, dim=table.embeddings.shape[1])
    _prepare_head(model, table.of_split("train"), table.of_split("val"), recipe)
    model.save_pretrained(folder / "model")
    known = table.of_split("train")
    found = features_of(model, known)  # the head was fitted on these
    reference = Reference(known.embeddings[found.rows], found.values)
    return _measure(folder, table, reference)


def start(recipe: Recipe, table: PairsTable, fit: bool = True) -> EmbedderTrainer:
    """A trainer before its first step, with what the recipe does before it.

    Args:
        recipe: the run.
        table: pairs with embeddings and splits; see `prepare`.
        fit: fit or train the head first, where the recipe says so.

    Raises:
        TableError: a split is missing, or none of its images can be decoded.
        ModelNotFoundError: the backbone cannot be had.
    """
    model = build(recipe, dim=table.embeddings.shape[1])
    crops = replace(model.preprocessing, size=recipe.data.train_size or model.preprocessing.size)
    known, unseen = table.of_split("train"), table.of_split("val")
    with first_process_first() as is_first:
        # The other processes get the head when their models are made equal.
        if fit and is_first:
            _prepare_head(model, known, unseen, recipe)
    prepare_backbone(model, recipe)
    train, val = PairsDataset(known, crops, recipe.data), PairsDataset(unseen, model.preprocessing)
    trainer = EmbedderTrainer(recipe, model, train, val)
    cache_images(recipe, trainer.args.max_steps, train.pictures, val.pictures)
    return trainer


def _prepare_head(model: Embedder, train: PairsTable, val: PairsTable, recipe: Recipe) -> None:
    """The first half of LP-FT, where the recipe asks for it; begins the log."""
    schedule = recipe.schedule
    log: dict[str, float] = {}
    if schedule.linear_probe:
        penalty, cosine = fit_linear_probe(model, train, val)
        log |= {"linear_probe_penalty": penalty, "linear_probe_cosine": cosine}
        sys.stderr.write(f"fitted head: cosine on val {cosine:.4f}\n")
    if schedule.head_epochs:
        log["head_cosine"] = fit_by_gradient(
            model,
            train,
            val,
            schedule.head_epochs,
            learning_rate=recipe.optimiser.head_learning_rate,
            seed=recipe.seed,
        )
        sys.stderr.write(f"trained head: cosine on val {log['head_cosine']:.4f}\n")
    if log:
        path = Path(recipe.output) / LOG_FILE
        path.write_text(json.dumps({"step": 0} | log) + "\n", encoding="utf-8")


def prepare_backbone(model: Embedder, recipe: Recipe) -> None:
    """Freeze, adapt and thrift the backbone as the recipe says.

    Raises:
        UnpromptError: the backbone cannot.
    """
    settings = recipe.model
    freeze(model.backbone, settings.freeze)
    if settings.lora_rank:
        adapt(model.backbone, settings.lora_rank)
    if settings.patch_dropout:
        drop_patches(model.backbone, settings.patch_dropout)
    if recipe.schedule.gradient_checkpointing:
        checkpoint_gradients(model.backbone)


def prepare(recipe: Recipe, folder: Path) -> PairsTable:
    """The recipe's pairs with prompt embeddings, groups and splits; kept in the run folder.

    A table that already has splits keeps them; rows of no split are left out.

    Raises:
        RecipeError: ``data.fold`` is none of the table's.
    """
    path = folder / TABLE_FILE
    if path.exists():
        return load(path)
    data = recipe.data
    table = with_embeddings(load(data.table), recipe.model.encoder, precision="fp32")
    if data.fold is not None:
        table = _held_out(table, data.fold)
    elif not any(table.column("split")):
        split = split_by_group(table, data.val, data.test, data.threshold, recipe.seed)
        table = split.table
    save(table, path)
    return load(path)


def _held_out(table: PairsTable, fold: int) -> PairsTable:
    """The table with one fold for validation, and the others, but for test, to train on."""
    if "fold" not in table.data.column_names:
        raise RecipeError(
            f"data.fold={fold}: {table.name} has no folds; run: unprompt split --folds"
        )
    folds = table.column("fold")
    if fold not in folds:
        known = sorted({number for number in folds if number is not None})
        raise RecipeError(f"data.fold={fold}: {table.name} has the folds {known}")
    splits = [
        split if split in (None, "test") else "val" if number == fold else "train"
        for split, number in zip(table.column("split"), folds, strict=True)
    ]
    return table.with_columns({"split": splits})


def build(recipe: Recipe, dim: int, taught: bool = True) -> Embedder:
    """The embedder that a recipe starts from.

    Args:
        recipe: the run.
        dim: width of its prompt embeddings.
        taught: tell a new head of classes what its classes are called, which needs the target
            encoder; without it the model has the right shapes only.
    """
    settings = recipe.model
    head = HeadConfig(
        settings.head.type or "linear",
        settings.head.hidden,
        settings.head.dropout,
        landmarks=settings.head.landmarks,
    )
    if settings.start is not None:
        return _go_on_from(settings.start, head, dim, recipe)
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
    if taught:
        _set_classes(model, settings)
    # Convolutions run faster on this layout; for everything else it makes no difference.
    return model.to(memory_format=torch.channels_last)


def _go_on_from(start: str, head: HeadConfig, dim: int, recipe: Recipe) -> Embedder:
    """An embedder with the weights of another; its head too where that is of the same kind.

    A recipe that says nothing of the head keeps the one that is there.
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
    """Tell a head of classes what its backbone's classifier knows, and the usual prompt."""
    if not isinstance(model.head, ClassesHead):
        return
    classifier = load_classifier(
        model.architecture.backbone, settings.pretrained, settings.checkpoint
    )
    prior = settings.head.prior
    set_classes(model.head, classifier, settings.encoder, prompts_of(prior) if prior else ())


def _claim(folder: Path, recipe: Recipe, fresh: bool) -> None:
    """Make the run folder this recipe's, or refuse when it is another's."""
    path = folder / RECIPE_FILE
    if fresh and folder.exists():
        if not path.exists() and any(folder.iterdir()):
            raise RecipeError(f"{folder} is not a run folder; nothing was deleted")
        shutil.rmtree(folder)
    if path.exists() and path.read_text(encoding="utf-8") != recipe_text(recipe):
        raise RecipeError(
            f"{folder} holds the run of another recipe; name another output=…, or discard it "
            "with --fresh"
        )
    save_recipe(recipe, path)


def _failures(folder: Path, scores: dict[str, Evaluation]) -> list[str]:
    path = folder / FAILURES_FILE
    met = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    met += [failure for score in scores.values() for failure in score.failures]
    return list(dict.fromkeys(met))


def _measure(
    folder: Path, table: PairsTable, reference: Reference | None = None
) -> dict[str, Evaluation]:
    model = load_model(folder / "model")
    known = table.of_split("train")
    reference = reference or reference_of(model, known)
    held = set(table.column("split"))
    scores = {
        split: evaluate(model, table, split, reference)
        for split in ("val", "test")
        if split in held
    }
    bank = Bank.build(known.prompts, known.embeddings, model.encoder)
    bank.calibrated(calibrate_bank(bank, scores["val"])[0]).save(folder / "model")
    with atomic_open(folder / SCORES_FILE) as file:
        json.dump({name: score.to_dict() for name, score in scores.items()}, file, indent=2)
        file.write("\n")
    return scores

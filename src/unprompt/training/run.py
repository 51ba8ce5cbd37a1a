"""A training run, from a recipe to a measured model folder."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import transformers

from unprompt.encoding import encode
from unprompt.errors import RecipeError, TableError, need
from unprompt.evaluating.calibration import calibrate
from unprompt.evaluating.evaluation import Evaluation, evaluate, reference_of
from unprompt.files import atomic_open
from unprompt.models.backbones import BackboneConfig, create_backbone
from unprompt.models.bank import Bank
from unprompt.models.embedder import Embedder, EmbedderConfig, HeadConfig
from unprompt.pairs.split import split_by_group
from unprompt.pairs.table import PairsTable, load, save
from unprompt.predicting.model import BUILTIN, builtin_folder, load_model
from unprompt.training.dataset import PairsDataset
from unprompt.training.probe import fit_head
from unprompt.training.recipe import Recipe, save_recipe
from unprompt.training.trainer import EmbedderTrainer, go_on, last_checkpoint

RECIPE_FILE = "recipe.yaml"
TABLE_FILE = "pairs.parquet"
SCORES_FILE = "scores.json"


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: the run folder: ``recipe.yaml`` as resolved, ``pairs.parquet`` with embeddings,
            groups and splits, ``metrics.jsonl``, ``checkpoints/``, ``model/``, ``scores.json``.
        model: the model folder, for `unprompt.predict` and `Embedder.from_pretrained`; its bank
            are the prompts of the training split.
        scores: evaluations on ``val`` and, where there is one, ``test``.
    """

    folder: Path
    model: Path
    scores: dict[str, Evaluation]


def train(recipe: Recipe, fresh: bool = False, progress: bool = False) -> Run:
    """Run a recipe, or go on with it where an earlier call was stopped.

    Args:
        recipe: the run.
        fresh: discard what an earlier call left in the run folder.
        progress: show bars.

    Raises:
        RecipeError: the run folder holds the run of another recipe.
        TableError: the table cannot be used: not there, no pairs for a split, unreadable images.
        ModelNotFoundError: the backbone cannot be had.
        MissingExtraError: what ``report_to`` names is not installed.
    """
    if recipe.report_to != "none":
        need("all", recipe.report_to)
    folder = Path(recipe.output)
    _claim(folder, recipe, fresh)
    transformers.set_seed(recipe.seed)
    if recipe.decoder is not None:
        from unprompt.training.decoder import train_decoder

        train_decoder(recipe, folder, progress)
        return Run(folder, folder / "model", {})
    table = prepare(recipe, folder, progress)
    if recipe.captioner is not None:
        from unprompt.training.captioner import train_captioner

        return Run(folder, folder / "model", train_captioner(recipe, table, folder, progress))
    model = build(recipe, dim=table.embeddings.shape[1])
    crops = replace(model.preprocessing, size=recipe.data.train_size or model.preprocessing.size)
    train_set = PairsDataset(table.of_split("train"), crops, recipe.data.augment)
    val_set = PairsDataset(table.of_split("val"), model.preprocessing)
    trainer = EmbedderTrainer(recipe, model, train_set, val_set)
    checkpoint = last_checkpoint(folder / "checkpoints")
    if recipe.schedule.probe and checkpoint is None:
        strength, cosine = fit_head(model, table.of_split("train"), table.of_split("val"), progress)
        trainer.log({"probe_penalty": strength, "probe_cosine": cosine})
    try:
        go_on(trainer, checkpoint)
    except TableError as error:
        # One of a decoding process brings its traceback as text; the last line is the message.
        raise TableError(str(error).strip().rpartition("TableError: ")[2]) from error
    model.save_pretrained(folder / "model")
    return Run(folder, folder / "model", _measure(folder, table, progress))


def prepare(recipe: Recipe, folder: Path, progress: bool = False) -> PairsTable:
    """The recipe's pairs with prompt embeddings, groups and splits; kept in the run folder.

    A table that already has splits keeps them; rows of no split are left out.
    """
    path = folder / TABLE_FILE
    if path.exists():
        return load(path)
    table = load(recipe.data.table)
    if not table.has("embedding"):
        embeddings = encode(
            table.prompts, recipe.model.encoder, precision="fp32", progress=progress
        )
        table = table.with_columns({"embedding": embeddings})
    if not any(table.column("split")):
        data = recipe.data
        split = split_by_group(table, data.val, data.test, data.threshold, recipe.seed)
        table = split.table
    save(table, path)
    return load(path)


def build(recipe: Recipe, dim: int) -> Embedder:
    """The embedder that a recipe starts from."""
    settings = recipe.model
    head = HeadConfig(settings.head.kind, settings.head.hidden, settings.head.dropout)
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
    # Convolutions run faster on this layout; for everything else it makes no difference.
    return model.to(memory_format=torch.channels_last)


def _go_on_from(start: str, head: HeadConfig, dim: int, recipe: Recipe) -> Embedder:
    """An embedder with the weights of another; its head too where that is of the same shape."""
    before = Embedder.from_pretrained(builtin_folder() if start == BUILTIN else start)
    config = replace(before.architecture, head=head, dim=dim, encoder=recipe.model.encoder)
    size = recipe.model.size or before.preprocessing.size
    model = Embedder(config, before.backbone, replace(before.preprocessing, size=size))
    if config == before.architecture:
        model.head.load_state_dict(before.head.state_dict())
    return model.to(memory_format=torch.channels_last)


def _claim(folder: Path, recipe: Recipe, fresh: bool) -> None:
    """Make the run folder this recipe's, or refuse when it is another's."""
    path = folder / RECIPE_FILE
    if fresh and folder.exists():
        if not path.exists() and any(folder.iterdir()):
            raise RecipeError(f"{folder} is not a run folder; nothing was deleted")
        shutil.rmtree(folder)
    before = path.read_text(encoding="utf-8") if path.exists() else None
    save_recipe(recipe, folder / "asked.yaml")
    asked = (folder / "asked.yaml").read_text(encoding="utf-8")
    (folder / "asked.yaml").unlink()
    if before is not None and before != asked:
        raise RecipeError(
            f"{folder} holds the run of another recipe; name another output=…, or discard it "
            "with --fresh"
        )
    save_recipe(recipe, path)


def _measure(folder: Path, table: PairsTable, progress: bool) -> dict[str, Evaluation]:
    model = load_model(folder / "model")
    reference = reference_of(model, table.of_split("train"), progress=progress)
    held = set(table.column("split"))
    scores = {
        split: evaluate(model, table, split, reference, progress=progress)
        for split in ("val", "test")
        if split in held
    }
    known = table.of_split("train")
    bank = Bank.build(known.prompts, known.embeddings, model.encoder)
    calibrate(bank, scores["val"])[0].save(folder / "model")
    with atomic_open(folder / SCORES_FILE) as file:
        json.dump({name: score.to_dict() for name, score in scores.items()}, file, indent=2)
        file.write("\n")
    return scores

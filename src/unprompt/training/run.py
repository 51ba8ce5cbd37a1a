"""A training run, from a recipe to a measured model folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import transformers

from unprompt.errors import TableError, need
from unprompt.evaluating.evaluation import Evaluation
from unprompt.pairs.table import PairsTable, load, save
from unprompt.training import train_captioner, train_decoder, train_embedder
from unprompt.training.data.prepare import prepare_pairs, prepare_texts
from unprompt.training.recipe import Recipe, load_recipe
from unprompt.training.resources import errors_explained, first_process_first, freed_memory_kept
from unprompt.training.run_folder import (
    MODEL_FOLDER,
    TABLE_FILE,
    claim,
    note_call,
    plot,
    read_failures,
)


class Learner(NamedTuple):
    """How a model of one type is trained.

    Attributes:
        prepare: from a recipe to the table of its run, with embeddings and splits.
        fit: from a recipe, that table and the claimed run folder to the evaluations on ``val`` and
            ``test``; writes ``checkpoints/``, ``model/`` and ``scores.json``, and resumes from the
            last checkpoint. Decoders have no evaluations, as they see no image.
    """

    prepare: Callable[[Recipe], PairsTable]
    fit: Callable[[Recipe, PairsTable, Path], dict[str, Evaluation]]


LEARNERS = {
    "embedder": Learner(prepare_pairs, train_embedder.fit),
    "captioner": Learner(prepare_pairs, train_captioner.fit),
    "decoder": Learner(prepare_texts, train_decoder.fit),
}


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: the run folder; docs/training.md lists its files.
        model: the model folder, for `unprompt.predict` and `Embedder.from_pretrained`; the bank of
            an embedder are the prompts of the training split.
        scores: evaluations on ``val`` and, where there is one, ``test``; of the first process only.
        failures: one line for each image that could not be read and was passed over.
    """

    folder: Path
    model: Path
    scores: dict[str, Evaluation]
    failures: list[str] = field(default_factory=list)


def train(recipe: Recipe | str | Path, fresh: bool = False) -> Run:
    """Run a recipe, or resume it where an earlier call was stopped.

    Under torchrun every process calls this, and all return the same.

    Args:
        recipe: the run, or the path of its recipe.
        fresh: discard what an earlier call left in the run folder.

    Raises:
        RecipeError: the run folder holds the run of another recipe, or settings exclude each other.
        TableError: the table is not there, cannot be read, or has no pairs for a split.
        ModelNotFoundError: the model to start from is not here and cannot be downloaded.
        MissingExtraError: the library that ``report_to`` names is not installed.
        TrainingError: the loss is not finite, memory or disk ran out; or, as `StoppedError`, a
            signal came.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe)
    if recipe.report_to != "none":
        need("all", recipe.report_to)
    folder = Path(recipe.output)
    with first_process_first() as is_first:
        if is_first:
            claim(folder, recipe, fresh)
        transformers.set_seed(recipe.seed)
        table = prepare(recipe, folder)
        if is_first:
            note_call(folder, table)
    with errors_explained(recipe), freed_memory_kept():
        try:
            scores = LEARNERS[recipe.learner].fit(recipe, table, folder)
        except TableError as error:
            # One of a decoding process brings its traceback as text; the last line is the message.
            raise TableError(str(error).strip().rpartition("TableError: ")[2]) from error
        finally:
            if is_first:
                plot(folder)
    failures = read_failures(folder)
    failures += [failure for score in scores.values() for failure in score.failures]
    return Run(folder, folder / MODEL_FOLDER, scores, list(dict.fromkeys(failures)))


def prepare(recipe: Recipe, folder: Path) -> PairsTable:
    """The table of a run with embeddings and splits, kept in the run folder.

    Raises:
        RecipeError: ``data.fold`` is not a fold of the table.
        TableError: the table cannot be read, or has too few rows.
    """
    path = folder / TABLE_FILE
    if not path.exists():
        save(LEARNERS[recipe.learner].prepare(recipe), path)
    return load(path)

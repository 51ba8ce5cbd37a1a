"""The table of a run: the recipe's pairs or texts with embeddings and splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from unprompt.curating.encode_file import with_embeddings
from unprompt.curating.split import split_by_group
from unprompt.encoding import encode
from unprompt.errors import RecipeError, TableError
from unprompt.pairs.columns import Columns
from unprompt.pairs.prompt_file import prompts_of
from unprompt.pairs.schema import to_arrow
from unprompt.pairs.table import PairsTable, load
from unprompt.training.recipe import Recipe
from unprompt.training.recipe_sections import Data


def prepare_pairs(recipe: Recipe) -> PairsTable:
    """The recipe's pairs with embeddings, and with groups and splits where they have no splits.

    A table that already has splits keeps them; its rows without a split are not used.

    Raises:
        RecipeError: ``data.fold`` is not a fold of the table.
        TableError: the table cannot be read.
    """
    data = recipe.data
    table = with_embeddings(
        load(data.table, named=columns_of(data)), recipe.model.encoder, precision="fp32"
    )
    if data.fold is not None:
        return _with_fold_held_out(table, data.fold)
    if any(table.column("split")):
        return table
    return split_by_group(table, data.val, data.test, data.threshold, recipe.seed).table


def columns_of(data: Data) -> Columns:
    """The columns that a recipe names of its table."""
    return Columns(data.image_column, data.prompt_column, data.separator)


def _with_fold_held_out(table: PairsTable, fold: int) -> PairsTable:
    """The table with one fold as ``val`` and the others, except ``test``, as ``train``."""
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


def prepare_texts(recipe: Recipe) -> PairsTable:
    """The distinct texts of a decoder's recipe, with embeddings and splits, without images.

    Raises:
        TableError: the texts cannot be read, or are too few.
    """
    source = recipe.data.table
    texts = list(
        dict.fromkeys(
            " ".join(text.split()) for text in prompts_of(source, columns_of(recipe.data))
        )
    )
    count = max(1, round(recipe.data.val * len(texts)))
    if len(texts) - count < 2:
        raise TableError(f"{source}: {len(texts)} distinct texts are too few to train on")
    splits = np.full(len(texts), "train")
    splits[np.random.default_rng(recipe.seed).permutation(len(texts))[:count]] = "val"
    columns = {
        "id": [str(row) for row in range(len(texts))],
        "file": [""] * len(texts),
        "prompt": texts,
        "split": splits.tolist(),
        "embedding": encode(texts, recipe.model.encoder),
    }
    return PairsTable(pa.table(to_arrow(columns)), Path(source).parent, str(source))

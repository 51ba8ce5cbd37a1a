from __future__ import annotations

import pytest

from tests.training.conftest import colours_and_noise
from unprompt.encoding import encode
from unprompt.errors import RecipeError
from unprompt.pairs.table import load, save
from unprompt.training.run import prepare


def test_a_table_without_splits_is_encoded_and_split_by_group(recipe, sketches, pairs, tmp_path):
    bare = load(sketches)
    table = bare.with_columns({"embedding": colours_and_noise(bare.prompts)})
    save(table, tmp_path / "bare.parquet")
    recipe.data.table = str(tmp_path / "bare.parquet")
    recipe.data.val, recipe.data.test, recipe.data.threshold = 0.2, 0.2, 0.95
    found = prepare(recipe, tmp_path / "run")
    counts = {split: found.column("split").count(split) for split in ("train", "val", "test")}
    assert sum(counts.values()) == len(table)
    assert min(counts.values()) >= 6
    assert found.has("group")
    recipe.data.table = "nowhere"
    assert prepare(recipe, tmp_path / "run").column("split") == found.column("split")


def test_prompts_are_encoded_by_the_real_encoder(recipe, sketches, tmp_path):
    recipe.data.table = str(sketches)
    recipe.data.threshold = 0.99
    found = prepare(recipe, tmp_path / "run")
    assert found.embeddings.shape == (60, 384)
    expected = encode(found.prompts[:2], recipe.model.encoder, precision="fp32")
    assert abs(found.embeddings[:2] - expected).max() < 1e-3


def test_a_fold_is_held_out_and_the_others_train(recipe, pairs, tmp_path):
    splits = enumerate(pairs.column("split"))
    folds = [None if split == "test" else row % 3 for row, split in splits]
    folds[0] = None  # of a group too large for a fold
    save(pairs.with_columns({"fold": folds}), tmp_path / "folds.parquet")
    recipe.data.table, recipe.data.fold = str(tmp_path / "folds.parquet"), 1
    found = prepare(recipe, tmp_path / "run")
    for split, fold in zip(found.column("split"), folds, strict=True):
        assert split == ("val" if fold == 1 else split if split == "test" else "train")
    assert found.column("split")[:2] == ["train", "val"]
    recipe.data.fold = 3
    with pytest.raises(RecipeError, match=r"data\.fold=3: .* has the folds \[0, 1, 2\]"):
        prepare(recipe, tmp_path / "other")
    recipe.data.table = pairs.name
    with pytest.raises(RecipeError, match="has no folds; run: unprompt split --folds"):
        prepare(recipe, tmp_path / "other")

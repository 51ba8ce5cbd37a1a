from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from unprompt.errors import TableError
from unprompt.models.embedder import Embedder
from unprompt.pairs.table import PairsTable
from unprompt.predicting import embedding_model as predicting
from unprompt.training.data import chunk_cache as once
from unprompt.training.data.features import features_of
from unprompt.training.train_embedder import build


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNPROMPT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def model(recipe, pairs) -> Embedder:
    torch.manual_seed(0)
    return build(recipe, pairs.embeddings.shape[1])


@pytest.fixture
def own(pairs: PairsTable, tmp_path: Path) -> PairsTable:
    """A table with image files of its own, to be damaged."""
    shutil.copytree(pairs.root, tmp_path / "images")
    return PairsTable(pairs.data.slice(0, 20), tmp_path / "images", "own")


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images went through the backbone, call by call."""
    seen: list[int] = []
    run = predicting.TorchModel.run

    def counted(self: predicting.TorchModel, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen.append(len(pixels))
        return run(self, pixels)

    monkeypatch.setattr(predicting.TorchModel, "run", counted)
    return seen


def test_features_are_the_backbones_and_are_computed_once(model, pairs, runs):
    model.train()
    found = features_of(model, pairs, batch_size=16)
    assert model.training
    assert sum(runs) == len(pairs)
    assert found.failures == []
    np.testing.assert_array_equal(found.rows, np.arange(len(pairs)))
    pixels = np.stack([model.preprocessing(pairs.open_image(row, 32)) for row in range(4)])
    with torch.no_grad():
        expected = model.eval().features(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(found.values[:4], expected, rtol=1e-4, atol=1e-5)
    again = features_of(model, pairs, batch_size=7)
    assert sum(runs) == len(pairs)
    np.testing.assert_array_equal(again.values, found.values)


def test_another_head_shares_them_and_another_backbone_does_not(model, pairs, runs):
    features_of(model, pairs)
    with torch.no_grad():
        model.head[-1].weight.add_(1)
    features_of(model, pairs)
    assert sum(runs) == len(pairs)
    with torch.no_grad():
        next(model.backbone.parameters()).mul_(1.5)
    features_of(model, pairs)
    assert sum(runs) == 2 * len(pairs)


def test_changed_images_are_seen(model, own, runs):
    before = features_of(model, own)
    path = own.root / own.column("file")[3]
    path.write_bytes((own.root / own.column("file")[4]).read_bytes())
    os.utime(path, ns=(1, 1))
    after = features_of(model, own)
    assert sum(runs) == 2 * len(own)
    assert not np.array_equal(before.values[3], after.values[3])
    np.testing.assert_allclose(after.values[3], before.values[4], rtol=1e-4, atol=1e-5)


def test_a_damaged_image_is_left_out_and_named_each_time(model, own):
    (own.root / own.column("file")[5]).write_bytes(b"no image")
    (own.root / own.column("file")[9]).unlink()
    for _ in range(2):
        found = features_of(model, own)
        assert sorted({*range(20)} - set(found.rows)) == [5, 9]
        assert found.values.shape == (18, model.backbone.dim)
        assert [("row 6" in line, "row 10" in line) for line in found.failures] == [
            (True, False),
            (False, True),
        ]
    for path in own.root.rglob("*"):
        if path.is_file():
            path.unlink()
    with pytest.raises(TableError, match="none of the 20 images can be decoded"):
        features_of(model, own)


def test_a_killed_call_goes_on_with_the_chunk_it_was_at(model, pairs, runs, monkeypatch):
    monkeypatch.setattr(once, "CHUNK", 16)
    run = predicting.TorchModel.run

    def dies(self: predicting.TorchModel, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if sum(runs) >= 32:
            raise KeyboardInterrupt
        return run(self, pixels)

    with monkeypatch.context() as patch:
        patch.setattr(predicting.TorchModel, "run", dies)
        with pytest.raises(KeyboardInterrupt):
            features_of(model, pairs, batch_size=16)
    done = sum(runs)
    assert done == 32
    found = features_of(model, pairs, batch_size=16)
    assert sum(runs) == len(pairs)
    monkeypatch.setenv("UNPROMPT_CACHE", os.environ["UNPROMPT_CACHE"] + "-fresh")
    np.testing.assert_array_equal(features_of(model, pairs, batch_size=16).values, found.values)

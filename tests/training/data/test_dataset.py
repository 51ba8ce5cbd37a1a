from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.training.conftest import DIM, SIZE
from unprompt.errors import TableError
from unprompt.models.preprocessing import Preprocessing
from unprompt.training.data.dataset import PairsDataset
from unprompt.training.data.sampling import Sample
from unprompt.training.recipe import Data


def test_items_are_what_the_model_takes(pairs):
    dataset = PairsDataset(pairs, Preprocessing(SIZE))
    assert len(dataset) == len(pairs)
    for row in (0, 17, 59):
        item = dataset[row]
        expected = Preprocessing(SIZE)(pairs.open_image(row, at_least=SIZE))
        np.testing.assert_array_equal(item["pixels"].numpy(), expected)
        assert item["pixels"].dtype == torch.uint8
        assert item["labels"].dtype == torch.float32
        assert item["labels"].shape == (DIM,)
        assert item["labels"].norm().item() == pytest.approx(1, abs=1e-6)
        stored = torch.from_numpy(pairs.embeddings[row])
        assert torch.cosine_similarity(item["labels"], stored, dim=0) > 0.99999


def test_without_augmentation_an_item_never_changes(pairs):
    dataset = PairsDataset(pairs, Preprocessing(SIZE))
    assert all(torch.equal(dataset[row]["pixels"], dataset[row]["pixels"]) for row in range(5))


@pytest.mark.parametrize("augment", ["crop", "mild"])
def test_augmentation_changes_pixels_mildly_and_follows_the_seed(pairs, augment):
    plain = PairsDataset(pairs, Preprocessing(SIZE))
    changed = PairsDataset(pairs, Preprocessing(SIZE), Data(augment=augment))

    def drawn(seed: int) -> torch.Tensor:
        return torch.stack([changed[Sample(row, seed)]["pixels"] for row in range(8)])

    assert drawn(0).shape == (8, 3, SIZE, SIZE)
    assert drawn(0).dtype == torch.uint8
    assert torch.equal(drawn(0), drawn(0))
    assert not torch.equal(drawn(0), drawn(1))
    still = torch.stack([plain[row]["pixels"] for row in range(8)])
    # Mean colours stay near: a crop and 15 % of brightness, contrast and saturation.
    change = (drawn(0).float().mean((2, 3)) - still.float().mean((2, 3))).abs()
    assert change.mean() < 40
    assert torch.equal(changed[3]["labels"], plain[3]["labels"])


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_an_embedding_without_a_direction_is_refused(pairs, value):
    rows = pairs.embeddings.copy()
    rows[7] = value
    broken = pairs.with_columns({"embedding": rows})
    with pytest.raises(TableError, match=f"1 embeddings .* pair '{pairs.column('id')[7]}'"):
        PairsDataset(broken, Preprocessing(SIZE))


def test_a_pair_without_an_embedding_is_refused(sketches):
    from unprompt.pairs.table import load

    with pytest.raises(TableError, match="have no embedding"):
        PairsDataset(load(sketches), Preprocessing(SIZE))


def test_an_image_that_cannot_be_read_is_named_and_the_rest_goes_on(pairs, tmp_path):
    dataset = PairsDataset(type(pairs)(pairs.data, tmp_path, "moved"), Preprocessing(SIZE))
    item = dataset[Sample(4, 0)]
    assert item["row"] == 4
    assert "moved, row 5" in item["failure"]
    assert not item["pixels"].any()
    assert PairsDataset(pairs, Preprocessing(SIZE))[4]["failure"] == ""


@pytest.mark.parametrize("augment", ["none", "mild", "strong"])
def test_pictures_that_are_kept_give_the_same_items(pairs, augment):
    live, kept = (PairsDataset(pairs, Preprocessing(SIZE), Data(augment=augment)) for _ in "lk")
    kept.images.keep()
    for row in range(8):
        draw = Sample(row, 3)
        assert torch.equal(live[draw]["pixels"], kept[draw]["pixels"])

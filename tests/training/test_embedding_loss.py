from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from unprompt.training.embedding_loss import embedding_loss
from unprompt.training.recipe import Loss


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    predicted = 3 * torch.randn(6, 8, generator=generator)
    true = F.normalize(torch.randn(6, 8, generator=generator), dim=-1)
    return predicted, true


def test_cosine_is_torchs_cosine_embedding_loss_of_matching_pairs(batch):
    expected = nn.CosineEmbeddingLoss()(*batch, torch.ones(6))
    assert embedding_loss(*batch, Loss()).item() == pytest.approx(expected.item(), abs=1e-6)


def test_negatives_are_torchs_cosine_embedding_loss_of_the_other_prompts(batch):
    predicted, true = batch
    others = [(i, j) for i in range(6) for j in range(6) if i != j]
    left, right = (torch.tensor(side) for side in zip(*others, strict=True))
    expected = nn.CosineEmbeddingLoss(margin=0.1)(predicted[left], true[right], -torch.ones(30))
    found = embedding_loss(*batch, Loss(cosine=0, negatives=1, margin=0.1))
    assert found.item() == pytest.approx(expected.item(), abs=1e-6)
    same = embedding_loss(predicted, true[:1].expand(6, 8), Loss(cosine=0, negatives=1, margin=0.1))
    assert same.item() == 0


def test_the_squared_error_sees_the_norm_and_the_cosine_does_not(batch):
    predicted, true = batch
    found = embedding_loss(predicted, true, Loss(cosine=0, mse=1))
    expected = nn.MSELoss()(predicted, true) * 8
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert embedding_loss(2 * true, true, Loss()).item() == pytest.approx(0, abs=1e-6)
    mixed = embedding_loss(2 * true, true, Loss(mse=0.5))
    assert mixed.item() == pytest.approx(0.5, abs=1e-5)


def test_the_contrastive_loss_tells_prompts_apart_and_takes_equal_ones_for_equal(batch):
    predicted, true = batch
    settings = Loss(cosine=0, contrastive=1, temperature=0.1)
    scores = F.normalize(predicted, dim=-1) @ true.T / 0.1
    expected = (F.cross_entropy(scores, torch.arange(6)) * 0.5) + (
        F.cross_entropy(scores.T, torch.arange(6)) * 0.5
    )
    found = embedding_loss(predicted, true, settings)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert embedding_loss(true, true, settings) < found
    twins = true[[0, 0, 1, 1, 2, 2]]
    rounded = F.normalize(twins.half().float(), dim=-1)
    # The right answer is one of two equal prompts: at best a coin's entropy is left.
    loss = embedding_loss(rounded, twins, Loss(cosine=0, contrastive=1, temperature=0.01))
    assert loss.item() == pytest.approx(torch.tensor(2.0).log().item(), abs=1e-2)


def test_half_precision_is_reckoned_in_single(batch):
    predicted, true = batch
    loss = embedding_loss(predicted.bfloat16(), true, Loss(mse=1, negatives=1, contrastive=1))
    assert loss.dtype == torch.float32

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from unprompt.evaluating.evaluation import evaluate
from unprompt.predicting.embedding_model import TorchModel
from unprompt.training.head.gradient import fit_by_gradient, train_head
from unprompt.training.train_embedder import build

COUNT, WIDTH, DIM = 300, 6, 4


@pytest.fixture(scope="module")
def solvable() -> tuple[np.ndarray, np.ndarray]:
    """Targets that a linear map gives exactly."""
    random = np.random.default_rng(0)
    features = random.normal(size=(COUNT, WIDTH)).astype(np.float32)
    targets = features @ random.normal(size=(WIDTH, DIM)) + random.normal(size=DIM)
    return features, (targets / np.linalg.norm(targets, axis=1, keepdims=True)).astype(np.float32)


def head() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(WIDTH, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, DIM))


def test_it_learns_and_says_how_the_loss_fell(solvable):
    losses = train_head(head(), *solvable, epochs=40, batch_size=50, learning_rate=1e-2)
    assert len(losses) == 40
    assert losses[0] > 0.3
    assert losses[-1] < 0.03


def test_the_same_seed_gives_the_same_head_to_the_bit(solvable):
    def trained(seed: int, noise: float) -> torch.Tensor:
        model = head()
        # What a caller drew before must not matter.
        torch.rand(seed + 1)
        train_head(model, *solvable, epochs=2, batch_size=64, noise=noise, seed=seed)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(trained(0, 0.1), trained(0, 0.1))
    assert not torch.equal(trained(0, 0.1), trained(1, 0.1))
    assert not torch.equal(trained(0, 0.1), trained(0, 0.0))


def test_it_leaves_the_callers_random_numbers_and_the_mode_alone(solvable):
    model = head().eval()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train_head(model, *solvable, epochs=1)
    assert torch.equal(torch.rand(3), expected)
    assert not model.training


def test_a_batch_larger_than_the_data_is_the_data(solvable):
    features, targets = solvable
    assert len(train_head(head(), features[:10], targets[:10], epochs=3, batch_size=64)) == 3


def test_a_wide_head_learns_from_the_features_of_the_frozen_backbone(recipe, pairs):
    recipe.model.head.type, recipe.model.head.hidden = "mlp", 32
    torch.manual_seed(0)
    model = build(recipe, pairs.embeddings.shape[1]).train()
    body = [p.clone() for p in model.backbone.state_dict().values()]
    train, val = pairs.of_split("train"), pairs.of_split("val")
    before = evaluate(TorchModel(model.eval(), "random", None), val, None).model.overall.mean
    model.train()
    cosine = fit_by_gradient(model, train, val, epochs=30, batch_size=16)
    assert model.training
    after = evaluate(TorchModel(model.eval(), "learned", None), val, None).model.overall.mean
    assert after == pytest.approx(cosine, abs=1e-5)
    assert after > before + 0.1
    now = model.backbone.state_dict().values()
    assert all(torch.equal(a, b) for a, b in zip(body, now, strict=True))

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from unprompt.evaluating.evaluation import evaluate
from unprompt.predicting.embedding_model import TorchModel
from unprompt.training.data.features import features_of
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
    # It is trained in training mode nevertheless.
    assert model[1].num_batches_tracked > 0


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


def test_it_is_adamw_with_a_rate_that_rises_and_falls(solvable):
    """Reckoned again step by step: 40 steps, of which 2 rise."""
    features, targets = solvable
    # Without a batch norm, before which a bias has no gradient but rounding.
    found = nn.Sequential(nn.Linear(WIDTH, 16), nn.ReLU(), nn.Linear(16, DIM))
    expected = copy.deepcopy(found)
    losses = train_head(found, features, targets, epochs=10, batch_size=64, noise=0.2, seed=3)
    matrices = [p for p in expected.parameters() if p.ndim > 1]
    vectors = [p for p in expected.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0}]
    optimiser = torch.optim.AdamW(groups)
    steps = 10 * (COUNT // 64)
    warmup = round(0.05 * steps)
    assert warmup == 2
    means = []
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for step in range(steps):
            epoch, batch = divmod(step, COUNT // 64)
            order = np.random.default_rng([3, epoch]).permutation(COUNT)
            rows = order[64 * batch : 64 * (batch + 1)]
            after = (step - warmup) / (steps - warmup)
            share = (step + 1) / warmup if step < warmup else (1 + np.cos(np.pi * after)) / 2
            for group in optimiser.param_groups:
                group["lr"] = 1e-3 * share
            x, y = torch.from_numpy(features[rows]), torch.from_numpy(targets[rows])
            x = x + 0.2 * torch.randn_like(x)
            loss = (1 - torch.cosine_similarity(expected(x), y)).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            means.append(loss.item())
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(losses, np.reshape(means, (10, -1)).mean(axis=1), rtol=1e-4)


def test_the_head_of_an_embedder_is_trained_with_the_given_settings(recipe, pairs):
    train, val = pairs.of_split("train"), pairs.of_split("val")
    torch.manual_seed(0)
    model = build(recipe, pairs.embeddings.shape[1])
    expected = copy.deepcopy(model.head)
    known = features_of(model, train)
    targets = known.embeddings / np.linalg.norm(known.embeddings, axis=1, keepdims=True)
    train_head(expected, known.values, targets, 2, 1024, 1e-3, seed=0)
    fit_by_gradient(model, train, val, epochs=2)
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(model.head.state_dict()[name], value, rtol=1e-5, atol=1e-6)

from __future__ import annotations

import numpy as np
import pytest
import torch

from unprompt.errors import UnpromptError
from unprompt.models.heads import Memory
from unprompt.training.head.memory import PENALTY, fit_memory

WIDTH, DIM, COUNT = 20, 3, 300


def kinds(seed: int, centres: np.ndarray, count: int = COUNT) -> tuple[np.ndarray, np.ndarray]:
    """Features around centres, and which centre each is of."""
    random = np.random.default_rng(seed)
    which = random.integers(len(centres), size=count)
    features = centres[which] + 0.1 * random.normal(size=(count, WIDTH))
    return features.astype(np.float32), which


def test_it_answers_near_what_it_knows_and_is_silent_elsewhere():
    random = np.random.default_rng(0)
    centres = 3 * random.normal(size=(5, WIDTH))
    said = random.normal(size=(5, DIM))
    features, which = kinds(1, centres)
    memory = Memory(WIDTH, 60, DIM)
    fit_memory(memory, features, said[which], ["a"] * 200 + ["b"] * 100)
    unseen, of = kinds(2, centres, 50)
    # Nothing can be said of what lies on the other side of the mean.
    strange = 2 * features.mean(axis=0) - centres
    with torch.no_grad():
        near = memory(torch.from_numpy(unseen)).numpy()
        far = memory(torch.from_numpy(strange.astype(np.float32))).numpy()
    np.testing.assert_allclose(near, said[of], atol=0.15)
    assert np.abs(far).max() < 0.05


def test_the_same_seed_remembers_the_same():
    features, which = kinds(1, np.eye(3, WIDTH))
    missing = np.eye(3)[which]
    memories = [Memory(WIDTH, 10, DIM) for _ in range(3)]
    for memory, seed in zip(memories, (0, 0, 1), strict=True):
        fit_memory(memory, features, missing, ["a"] * COUNT, seed)
    first, again, other = (memory.landmarks.weight for memory in memories)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    norms = first.norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(10))


def test_more_landmarks_than_pairs():
    with pytest.raises(UnpromptError, match=r"7 pairs are too few for 10 landmarks"):
        fit_memory(Memory(WIDTH, 10, DIM), np.ones((7, WIDTH)), np.ones((7, DIM)), ["a"] * 7)


def reference(memory: Memory, features, missing, shares) -> tuple[np.ndarray, np.ndarray]:
    """Projected rows by singular values, and the answers as one least-squares problem."""
    mean = np.average(features, axis=0, weights=shares)
    deviation = np.sqrt(np.average((features - mean) ** 2, axis=0, weights=shares))
    scaled = (features - mean) / deviation
    _, _, directions = np.linalg.svd(np.sqrt(shares)[:, None] * scaled, full_matrices=False)
    projected = scaled @ directions.T
    placed = projected / np.linalg.norm(projected, axis=1, keepdims=True)
    landmarks = memory.landmarks.weight.double().numpy()
    # The signs of directions are free, so landmarks are found again by their cosines to rows.
    own = memory.project(torch.from_numpy(features)).double().numpy()
    own /= np.linalg.norm(own, axis=1, keepdims=True)
    chosen = (own @ landmarks.T).argmax(axis=0)
    kernel = np.exp((placed @ placed[chosen].T - 1) / memory.BANDWIDTH)
    total = PENALTY * (shares @ kernel**2).sum() / kernel.shape[1]
    design = np.vstack([np.sqrt(shares)[:, None] * kernel, np.sqrt(total) * np.eye(len(chosen))])
    wanted = np.vstack([np.sqrt(shares)[:, None] * missing, np.zeros((len(chosen), DIM))])
    return kernel @ np.linalg.lstsq(design, wanted, rcond=None)[0], chosen


def test_it_is_kernel_regression_on_principal_components_where_sources_weigh_by_their_root():
    random = np.random.default_rng(0)
    scales = random.uniform(0.1, 30, WIDTH)
    features = (scales * random.normal(size=(COUNT, WIDTH)) + 5 * scales).astype(np.float32)
    missing = random.normal(size=(COUNT, DIM))
    sources = ["a"] * 280 + ["b"] * 20
    shares = np.array([1 / np.sqrt(280)] * 280 + [1 / np.sqrt(20)] * 20)
    shares /= shares.sum()
    memory = Memory(WIDTH, 40, DIM)
    with torch.no_grad():
        fit_memory(memory, features, missing, sources)
        expected, chosen = reference(memory, features, missing, shares)
        found = memory(torch.from_numpy(features)).numpy()
    assert len(set(chosen)) == 40
    np.testing.assert_allclose(found, expected, atol=2e-3)
    again = np.random.default_rng(0).choice(COUNT, 40, False, shares)
    assert set(chosen) == set(again)


def test_as_many_landmarks_as_pairs_and_fewer_components_than_features():
    random = np.random.default_rng(0)
    features = random.normal(size=(12, 300)).astype(np.float32)
    memory = Memory(300, 12, DIM)
    fit_memory(memory, features, random.normal(size=(12, DIM)), ["a"] * 12)
    assert memory.project.weight.shape == (Memory.DIM, 300)
    # 12 rows have 11 directions; the first components have all of their variance.
    projected = memory.project(torch.from_numpy(features)).detach().numpy()
    spread = (projected**2).mean(axis=0)
    assert spread[:11].sum() == pytest.approx(300, rel=1e-3)
    assert (np.diff(spread[:11]) < 1e-4).all()


def test_features_that_never_change_are_left_out():
    features = np.random.default_rng(0).normal(size=(30, WIDTH)).astype(np.float32)
    features[:, 3] = 7
    memory = Memory(WIDTH, 5, DIM)
    fit_memory(memory, features, np.ones((30, DIM)), ["a"] * 30)
    features[:, 3] += 1e-7
    assert torch.isfinite(memory(torch.from_numpy(features))).all()

from __future__ import annotations

import numpy as np
import pytest
import torch

from unprompt.errors import UnpromptError
from unprompt.models.heads import Memory
from unprompt.training.head.memory import fit_memory

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

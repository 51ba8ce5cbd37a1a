from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from unprompt.training.head.ridge import PENALTIES, Moments, ridges


def brute_force(features: np.ndarray, target: np.ndarray, penalty: float) -> tuple:
    """The minimiser of |Z w + b - y|² + p |w|², found as one least-squares problem."""
    mean, deviation = features.mean(axis=0), features.std(axis=0) + 1e-6
    z = (features - mean) / deviation
    count, width = z.shape
    total = penalty * (z**2).sum() / width
    design = np.vstack(
        [
            np.hstack([z, np.ones((count, 1))]),
            np.hstack([np.sqrt(total) * np.eye(width), np.zeros((width, 1))]),
        ]
    )
    wanted = np.vstack([target, np.zeros((width, target.shape[1]))])
    solution = np.linalg.lstsq(design, wanted, rcond=None)[0]
    weight = solution[:-1].T / deviation
    return weight, solution[-1] - weight @ mean


@settings(max_examples=40)
@given(
    count=st.integers(4, 40),
    width=st.integers(1, 12),
    seed=st.integers(0, 1000),
    penalty=st.sampled_from(PENALTIES),
    scale=st.sampled_from([0.01, 1.0, 100.0]),
)
def test_ridge_is_the_least_squares_solution(count, width, seed, penalty, scale):
    random = np.random.default_rng(seed)
    features = scale * (random.normal(size=(count, width)) + random.normal(size=width))
    target = random.normal(size=(count, 3))
    [found] = ridges(Moments.of(features, target), [penalty])
    expected_weight, expected_bias = brute_force(features, target, penalty)
    np.testing.assert_allclose(found.weight * scale, expected_weight * scale, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found.bias, expected_bias, rtol=1e-6, atol=1e-8)


def test_a_feature_that_never_changes_is_left_out():
    random = np.random.default_rng(0)
    features = np.hstack([random.normal(size=(20, 3)), np.zeros((20, 1))])
    [found] = ridges(Moments.of(features, random.normal(size=(20, 2))), [0.1])
    assert np.isfinite(found.weight).all()
    assert np.isfinite(found.bias).all()
    assert (found.weight[:, 3] == 0).all()

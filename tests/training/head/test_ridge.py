from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unprompt.evaluating.metrics import cosines
from unprompt.training.head.ridge import PENALTIES, HeadWeights, Moments, best_ridge, mixed, ridges


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


def rows_of(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    shift = 5 * random.normal(size=7)
    return random.normal(size=(count, 4)) + shift[:4], random.normal(size=(count, 3)) + shift[4:]


def test_mixed_moments_are_those_of_all_rows_where_each_set_weighs_alike():
    sets = [rows_of(count, seed) for seed, count in enumerate((5, 50, 11))]
    features, targets = (np.concatenate(rows) for rows in zip(*sets, strict=True))
    shares = np.concatenate([np.full(len(rows), 1 / len(rows) / 3) for rows, _ in sets])
    mean, target = shares @ features, shares @ targets
    away = features - mean
    found, whole = (
        mixed([Moments.of(*rows) for rows in sets]),
        Moments.of(features, targets, shares),
    )
    for moments in (found, whole):
        np.testing.assert_allclose(moments.features, mean)
        np.testing.assert_allclose(moments.targets, target)
        np.testing.assert_allclose(moments.inner, (away * shares[:, None]).T @ away)
        np.testing.assert_allclose(moments.cross, (away * shares[:, None]).T @ (targets - target))


def test_noise_is_the_penalty_that_many_noisy_copies_would_give():
    features, targets = rows_of(30, 0)
    random = np.random.default_rng(1)
    copies = np.concatenate(
        [features + 0.5 * random.normal(size=features.shape) for _ in range(4000)]
    )
    [expected] = ridges(Moments.of(copies, np.tile(targets, (4000, 1))), [0.0])
    [found] = ridges(Moments.of(features, targets), [0.0], noise=0.5)
    [plain] = ridges(Moments.of(features, targets), [0.0])
    np.testing.assert_allclose(found.weight, expected.weight, atol=0.01)
    assert np.abs(plain.weight - expected.weight).max() > 0.03


def test_the_best_penalty_is_that_of_the_best_score_on_other_rows():
    features, targets = rows_of(12, 3)
    unseen, true = rows_of(40, 4)
    weights, penalty, score = best_ridge(features, targets, unseen, true)
    fits = list(ridges(Moments.of(features, targets), PENALTIES))
    scores = [cosines(fit(unseen), true).mean() for fit in fits]
    assert score == max(scores)
    assert penalty == PENALTIES[int(np.argmax(scores))]
    np.testing.assert_array_equal(weights.weight, fits[PENALTIES.index(penalty)].weight)
    noisy, _, score = best_ridge(features, targets, unseen, true, noise=0.5)
    random = np.random.default_rng(0)
    expected = cosines(noisy(unseen + random.normal(scale=0.5, size=unseen.shape)), true).mean()
    assert score == expected


def test_weights_predict_as_the_layer_that_they_are_copied_to():
    features, _ = rows_of(6, 0)
    weights = HeadWeights(rows_of(3, 1)[0], np.array([1.0, -2.0, 3.0]))
    layer = torch.nn.Linear(4, 3).double()
    weights.copy_to(layer)
    expected = features @ weights.weight.T + [1.0, -2.0, 3.0]
    np.testing.assert_allclose(weights(features), expected)
    np.testing.assert_allclose(layer(torch.from_numpy(features)).detach().numpy(), expected)

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unprompt.evaluating.metrics import (
    Bin,
    Score,
    cosines,
    difference,
    furthest_bin,
    mean_with_interval,
    recall_at_k,
    reliability,
)


def by_hand(one: np.ndarray, other: np.ndarray) -> float:
    dot = math.fsum(float(a) * float(b) for a, b in zip(one, other, strict=True))
    norms = math.hypot(*map(float, one)) * math.hypot(*map(float, other))
    return dot / norms if norms else 0.0


@settings(max_examples=40)
@given(
    count=st.integers(1, 20),
    dim=st.integers(1, 8),
    seed=st.integers(0, 1000),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
)
def test_cosines_are_those_by_hand(count, dim, seed, scale):
    random = np.random.default_rng(seed)
    one = (scale * random.normal(size=(count, dim))).astype(np.float32)
    other = random.normal(size=(count, dim)).astype(np.float16)
    one[0] = 0
    found = cosines(one, other)
    assert found.dtype == np.float64
    expected = [by_hand(a, b) for a, b in zip(one, other, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert found[0] == 0


def test_cosines_of_zero_rows_are_zero():
    zero, one = np.zeros((2, 3)), np.ones((2, 3))
    assert cosines(zero, one).tolist() == cosines(one, zero).tolist() == [0, 0]
    assert cosines(zero, zero).tolist() == [0, 0]
    np.testing.assert_allclose(cosines(one, -2 * one), -1)


def test_the_interval_is_that_of_a_plain_bootstrap():
    values = np.random.default_rng(1).normal(0.5, 0.2, size=200)
    score = mean_with_interval(values)
    assert score.mean == pytest.approx(values.mean())
    assert score.count == 200
    error = values.std() / math.sqrt(200)
    assert score.low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert score.high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


def test_the_interval_is_that_of_a_bootstrap_by_hand():
    values = np.random.default_rng(10).random(60)
    groups = np.random.default_rng(11).integers(100, 120, size=60)
    names = sorted(set(groups.tolist()))
    random = np.random.default_rng(0)
    means = []
    for _ in range(2000):
        sampled = random.integers(len(names), size=len(names))
        means.append(np.concatenate([values[groups == names[k]] for k in sampled]).mean())
    score = mean_with_interval(values, groups)
    ends = np.percentile(means, [2.5, 97.5])
    np.testing.assert_allclose([score.low, score.high], ends, rtol=1e-9)
    less = difference(values + 0.5, np.full(60, 0.5), groups)
    np.testing.assert_allclose([less.low, less.high], ends, rtol=1e-9)


def test_a_score_for_json():
    assert Score(0.123456, -0.234567, 0.345678, 9).to_dict() == {
        "cosine": 0.1235,
        "interval": [-0.2346, 0.3457],
        "pairs": 9,
    }


def test_the_interval_covers_the_truth_nineteen_times_in_twenty():
    random = np.random.default_rng(2)
    covered = 0
    for _ in range(30):
        score = mean_with_interval(random.normal(0.4, 0.1, size=50))
        covered += score.low <= 0.4 <= score.high
    assert 25 <= covered <= 30


def test_near_duplicates_widen_the_interval():
    random = np.random.default_rng(3)
    centres = random.normal(0.5, 0.2, size=20)
    groups = np.repeat(np.arange(20), 10)
    values = centres[groups] + random.normal(0, 0.01, size=200)
    alone, grouped = mean_with_interval(values), mean_with_interval(values, groups)
    assert grouped.mean == alone.mean
    widening = (grouped.high - grouped.low) / (alone.high - alone.low)
    # Ten equal values carry the information of one: the square root of ten.
    assert widening == pytest.approx(math.sqrt(10), rel=0.25)
    # The names of the groups do not matter.
    renamed = mean_with_interval(values, 1000 - 7 * groups)
    assert renamed.high - renamed.low == pytest.approx(grouped.high - grouped.low, rel=0.1)


def test_intervals_are_the_same_each_time_and_follow_the_seed():
    values = np.random.default_rng(4).random(30)
    assert mean_with_interval(values) == mean_with_interval(values)
    assert mean_with_interval(values) != mean_with_interval(values, seed=1)


def test_one_group_has_no_spread():
    score = mean_with_interval(np.array([0.25, 0.75]), np.array([3, 3]))
    assert (score.mean, score.low, score.high) == (0.5, 0.5, 0.5)
    assert str(Score(0.5, 0.25, 0.75, 2)) == "0.5000 [0.2500, 0.7500]"


def test_pairing_takes_out_what_is_hard_for_both():
    random = np.random.default_rng(6)
    hard = random.normal(0.5, 0.2, size=200)
    one, other = hard + 0.02 + random.normal(0, 0.01, 200), hard + random.normal(0, 0.01, 200)
    paired = difference(one, other)
    assert paired.mean == pytest.approx(one.mean() - other.mean())
    assert paired.low > 0.015
    # Their intervals overlap nearly whole; unpaired, nothing could be said.
    assert mean_with_interval(one).low < mean_with_interval(other).mean
    assert difference(one, one).high == difference(one, one).low == 0


@settings(max_examples=30)
@given(count=st.integers(1, 30), distinct=st.integers(1, 12), seed=st.integers(0, 1000))
def test_recall_at_k_is_that_of_a_sort(count, distinct, seed):
    random = np.random.default_rng(seed)
    known = random.normal(size=(distinct, 6))
    rows = random.integers(distinct, size=count)
    predicted = known[rows] + random.normal(size=(count, 6))
    found = recall_at_k(predicted, known[rows], [f"prompt {row}" for row in rows])
    held = sorted(set(rows.tolist()))
    ranks = []
    for row, guess in zip(rows, predicted, strict=True):
        order = sorted(held, key=lambda k: -by_hand(guess, known[k]))
        ranks.append(1 + order.index(row))
    assert found == {k: np.mean([rank <= k for rank in ranks]) for k in (1, 5, 10)}


def test_recall_of_more_pairs_than_fit_in_a_block():
    random = np.random.default_rng(11)
    true = random.normal(size=(1100, 4))
    predicted = true.copy()
    lost = [0, 5, 1023, 1024, 1099]
    predicted[lost] *= -1
    found = recall_at_k(predicted, true, [f"prompt {k}" for k in range(1100)])
    assert found[1] == pytest.approx(1095 / 1100)


def test_prompts_that_differ_in_their_last_character_are_two():
    """NumPy's own strings drop zeros at their ends."""
    true = np.eye(2)
    assert recall_at_k(true[::-1], true, ["a", "a\0"])[1] == 0


def test_a_constant_prediction_finds_nothing():
    true = np.eye(20)
    names = [f"prompt {k}" for k in range(20)]
    assert recall_at_k(np.ones((20, 20)), true, names) == {1: 0, 5: 0, 10: 0}
    assert recall_at_k(true, true, names) == {1: 1, 5: 1, 10: 1}


def test_reliability_bins_hold_every_answer_once():
    estimated = np.random.default_rng(7).permutation(100) / 100
    bins = reliability(estimated, 1 - estimated)
    assert [part.count for part in bins] == [10] * 10
    assert bins[0].estimated == pytest.approx(0.045)
    assert bins[0].actual == pytest.approx(0.955)
    assert [part.estimated for part in bins] == sorted(part.estimated for part in bins)
    assert [part.count for part in reliability(estimated[:7], estimated[:7])] == [7]


def test_answers_of_one_estimate_are_not_told_apart():
    """Where most estimates are equal, the order of the rows must make no bins of them."""
    estimated = np.array([0.4] * 70 + [0.5] * 30)
    actual = np.concatenate([np.linspace(0.3, 0.5, 70), np.full(30, 0.5)])
    bins = reliability(estimated, actual)
    assert [(part.estimated, part.count) for part in bins] == [
        (pytest.approx(0.4), 70),
        (pytest.approx(0.5), 30),
    ]
    assert bins[0].actual == pytest.approx(0.4)


def test_no_bin_of_a_reliability_is_small():
    # 45 equal estimates begin at the 16th: 15 rows are less than half of a tenth of 400.
    estimated = np.concatenate([np.arange(15), np.full(45, 15), np.arange(60, 400)])
    counts = [one.count for one in reliability(estimated, estimated)]
    assert counts == [80, *[40] * 8]
    # The last bin must hold ten answers too.
    few = np.arange(25.0)
    assert [one.count for one in reliability(few, few)] == [10, 15]
    assert [one.count for one in reliability(few, few, bins=2)] == [12, 13]


def test_the_furthest_bin_may_estimate_too_much_or_too_little():
    bins = [Bin(0.3, 0.35, 10), Bin(0.5, 0.4, 12), Bin(0.6, 0.62, 9)]
    assert furthest_bin(bins) == bins[1]
    assert furthest_bin([*bins, Bin(0.7, 0.9, 9)]).actual == 0.9

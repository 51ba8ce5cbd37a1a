from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unprompt.errors import RecipeError, TableError
from unprompt.pairs.table import Pair, PairsTable
from unprompt.training.data.sampling import LengthSampler, PairSampler, in_stream, shards_of
from unprompt.training.recipe import Data


def table_of(prompts: list[str], sources: list[str], groups: list[int] | None = None) -> PairsTable:
    pairs = [
        Pair(f"p{row}", f"{row}.png", prompt, source=source, group=groups and groups[row])
        for row, (prompt, source) in enumerate(zip(prompts, sources, strict=True))
    ]
    return PairsTable.from_pairs(pairs, ".")


@pytest.fixture
def table() -> PairsTable:
    """Ten pairs: prompts a (4), b (2) and c to f; sources x (6) and y (4)."""
    return table_of(list("aaaabbcdef"), ["x"] * 6 + ["y"] * 4, [0, 0, 0, 0, 0, 0, 1, 1, 2, 3])


def epoch(sampler: PairSampler, number: int) -> list[int]:
    sampler.set_epoch(number)
    return [sample.row for sample in sampler]


def test_an_epoch_shows_every_pair_once_in_an_order_of_its_own(table):
    sampler = PairSampler(table, Data(), seed=3)
    first, second = epoch(sampler, 0), epoch(sampler, 1)
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert epoch(PairSampler(table, Data(), seed=3), 1) == second
    assert epoch(PairSampler(table, Data(), seed=4), 1) != second


def test_showings_have_seeds_of_their_own(table):
    sampler = PairSampler(table, Data(), seed=0)
    seeds = []
    for number in range(3):
        sampler.set_epoch(number)
        seeds += [sample.seed for sample in sampler]
    assert len(set(seeds)) == 30


@pytest.mark.parametrize(("draw", "units"), [("prompt", 6), ("group", 4)])
def test_one_pair_of_each_prompt_or_group_is_drawn(table, draw, units):
    sampler = PairSampler(table, Data(sample_by=draw), seed=0)
    assert len(sampler) == units
    column = table.column(draw)
    seen = set()
    for number in range(40):
        rows = epoch(sampler, number)
        assert len({column[row] for row in rows}) == len(rows) == units
        seen |= set(rows)
    assert seen == set(range(10))


def test_groups_that_are_not_there(table):
    bare = table_of(["a", "b"], ["x", "y"])
    with pytest.raises(TableError, match="needs the column 'group'"):
        PairSampler(bare, Data(sample_by="group"), seed=0)


def test_weights_say_how_often_a_source_is_shown(table):
    sampler = PairSampler(table, Data(weights={"x": 0.5, "y": 2.0}), seed=0)
    assert len(sampler) == 11
    counts: Counter[int] = Counter()
    for number in range(100):
        rows = Counter(epoch(sampler, number))
        assert sum(rows.values()) == 11
        assert all(rows[row] in (0, 1) for row in range(6))
        assert all(rows[row] == 2 for row in range(6, 10))
        counts += rows
    assert all(30 < counts[row] < 70 for row in range(6))
    assert set(epoch(PairSampler(table, Data(weights={"x": 0}), seed=0), 0)) == {6, 7, 8, 9}


def test_weights_choose_within_a_prompt_too():
    table = table_of(["a"] * 2, ["x", "y"])
    sampler = PairSampler(table, Data(sample_by="prompt", weights={"x": 1.5, "y": 0.5}), seed=0)
    assert len(sampler) == 1
    drawn = [epoch(sampler, number)[0] for number in range(400)]
    assert 260 < drawn.count(0) < 340


@settings(max_examples=40)
@given(
    weights=st.lists(st.floats(0.1, 3), min_size=1, max_size=6),
    rows=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_no_pair_is_shown_oftener_or_rarer_than_its_weight_rounds_to(weights, rows, seed):
    sources = [f"s{row % len(weights)}" for row in range(rows)]
    stated = {f"s{number}": weight for number, weight in enumerate(weights) if number < rows}
    table = table_of([str(row) for row in range(rows)], sources)
    if round(sum(stated[source] for source in sources)) == 0:
        return
    sampler = PairSampler(table, Data(weights=stated), seed)
    counts = Counter(epoch(sampler, 0))
    assert sum(counts.values()) == len(sampler) == round(sum(stated[s] for s in sources))
    stretch = len(sampler) / sum(stated[s] for s in sources)
    for row, source in enumerate(sources):
        assert abs(counts[row] - stated[source] * stretch) < 1 + 1e-9


def test_no_batch_of_one(table):
    assert len(PairSampler(table, Data(), 0, batch_size=3)) == 9
    assert len(PairSampler(table, Data(), 0, batch_size=4)) == 10
    left = [set(range(10)) - set(epoch(PairSampler(table, Data(), 0, 3), n)) for n in range(10)]
    assert all(len(rows) == 1 for rows in left)
    assert len(set.union(*left)) > 3


def test_weights_that_cannot_be(table):
    with pytest.raises(RecipeError, match=r"of the source 'z'; it has x, y"):
        PairSampler(table, Data(weights={"z": 1}), seed=0)
    with pytest.raises(RecipeError, match="leave no pair"):
        PairSampler(table, Data(weights={"x": 0, "y": 0}), seed=0)


def test_a_large_table_is_drawn_in_no_time():
    table = table_of([str(row // 3) for row in range(3000)], ["x"] * 3000)
    rows = epoch(PairSampler(table, Data(sample_by="prompt"), 0), 0)
    assert len({row // 3 for row in rows}) == 1000
    assert np.mean([row % 3 for row in rows]) == pytest.approx(1, abs=0.1)


def test_pairs_in_shards_are_all_shown_in_an_order_of_the_epochs_own():
    pairs = [
        Pair(f"p{row}", f"{row // 20:02}.tar/{row}.jpg", f"prompt {row}", source="x")
        for row in range(400)
    ]
    table = PairsTable.from_pairs(pairs, ".")
    sampler = PairSampler(table, Data(), seed=0)
    first, second = epoch(sampler, 0), epoch(sampler, 1)
    assert sorted(first) == sorted(second) == list(range(400))
    assert first != second
    assert epoch(PairSampler(table, Data(), seed=0), 1) == second


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    open_shards=st.integers(1, 4),
    buffer=st.integers(1, 20),
    seed=st.integers(0, 99),
)
def test_every_row_comes_once_and_few_shards_are_open(sizes, open_shards, buffer, seed):
    shard_of = np.repeat(np.arange(len(sizes)), sizes)
    rows = np.random.default_rng(seed).permutation(len(shard_of))

    def order() -> np.ndarray:
        return in_stream(rows, shard_of, np.random.default_rng(seed), open_shards, buffer)

    stream = order()
    assert sorted(stream) == list(range(len(shard_of)))
    np.testing.assert_array_equal(stream, order())
    # Without the buffer a shard is read from its start to its end, few of them at a time.
    plain = in_stream(rows, shard_of, np.random.default_rng(seed), open_shards, buffer=0)
    for shard in range(len(sizes)):
        assert (np.diff(plain[shard_of[plain] == shard]) > 0).all()
    spans = [np.flatnonzero(shard_of[plain] == shard) for shard in range(len(sizes))]
    at_once = [sum(s[0] <= place <= s[-1] for s in spans) for place in range(len(plain))]
    assert max(at_once) <= open_shards
    moved = np.abs(np.argsort(stream)[plain] - np.arange(len(plain)))
    assert moved.max() <= buffer


def test_neighbours_come_from_several_shards_in_an_order_that_changes():
    shard_of = np.repeat(np.arange(20), 100)
    rows = np.arange(2000)
    one, other = (in_stream(rows, shard_of, np.random.default_rng(seed)) for seed in (0, 1))
    assert not np.array_equal(one, other)
    mixed = [len(set(shard_of[one[start : start + 50]])) for start in range(0, 2000, 50)]
    assert min(mixed) >= 3


def test_rows_may_be_drawn_more_than_once_or_not_at_all():
    shard_of = np.repeat(np.arange(4), 5)
    rows = np.array([3, 3, 3, 7, 19, 7])
    stream = in_stream(rows, shard_of, np.random.default_rng(0))
    assert sorted(stream) == sorted(rows)


def test_only_a_table_in_shards_has_them(tmp_path):
    def table(files: list[str]) -> PairsTable:
        return PairsTable.from_pairs([Pair(f, f, "prompt") for f in files], tmp_path)

    files = ["a/0.tar/1.jpg", "a/1.tar/1.jpg", "a/0.tar/2.jpg"]
    assert shards_of(table(files)).tolist() == [0, 1, 0]
    assert shards_of(table([*files, "b.jpg"])) is None


def test_batches_are_of_one_length_and_in_no_order() -> None:
    lengths = np.random.default_rng(0).integers(5, 60, size=1003).tolist()
    order = LengthSampler(lengths, batch_size=8, seed=1)
    rows = list(order)
    assert sorted(rows) == list(range(1003))
    assert rows == list(order)
    batches = np.array([lengths[row] for row in rows[:1000]]).reshape(-1, 8)
    assert np.ptp(batches, axis=1).mean() < 3
    means = batches.mean(axis=1)
    assert abs(np.corrcoef(means[1:], means[:-1])[0, 1]) < 0.2
    order.set_epoch(1)
    assert sorted(order) == list(range(1003))
    assert list(order) != rows

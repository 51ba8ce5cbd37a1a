from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from unprompt.pairs.table import Pair, PairsTable
from unprompt.training.data.shard_order import in_stream, shards_of


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

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.curating.dedup import twin
from tests.curating.dedup.test_deduplication import clusters
from unprompt.curating.leakage import find_overlap, split_leaks
from unprompt.errors import TableError
from unprompt.pairs.table import Pair, PairsTable


@settings(max_examples=40)
@given(
    seed=st.integers(0, 1000),
    count=st.integers(1, 30),
    others=st.integers(1, 30),
    threshold=st.sampled_from([0.5, 0.8, 0.95]),
)
def test_overlap_is_its_twin(seed, count, others, threshold):
    rows = clusters(seed, count + others, 12, 0.3)
    left, right = rows[:count], rows[count:]
    found = find_overlap(left, right, threshold, block_size=8)
    cosine = twin.cosines(twin.unit(left), twin.unit(right))
    near = (cosine >= np.float32(threshold)).any(1)
    assert found.removed.tolist() == np.flatnonzero(near).tolist()
    assert found.kept.tolist() == np.flatnonzero(~near).tolist()
    assert found.match_of.tolist() == cosine.argmax(1)[near].tolist()
    assert found.cosine.tolist() == cosine.max(1)[near].tolist()


def test_the_same_letters_overlap_whatever_the_embeddings():
    found = find_overlap(
        np.eye(4)[:2], np.eye(4)[2:], prompts=["A cat!", "dog"], against_prompts=["x", "a  cat"]
    )
    assert (found.removed.tolist(), found.match_of.tolist()) == ([0], [1])
    assert found.cosine.tolist() == [1]


def test_tables_are_compared_and_widths_must_agree():
    def table(vectors, name):
        pairs = [Pair(str(k), "x", f"{name} {k}", embedding=v) for k, v in enumerate(vectors)]
        return PairsTable.from_pairs(pairs, ".", name)

    found = find_overlap(table(np.eye(3), "a"), table(np.eye(3)[1:], "b"))
    assert found.kept.tolist() == [0]
    with pytest.raises(TableError, match="a has embeddings of width 3, b of width 2"):
        find_overlap(table(np.eye(3), "a"), table(np.eye(2), "b"))


@settings(max_examples=40)
@given(st.integers(0, 1000), st.integers(2, 40), st.sampled_from([0.5, 0.8]))
def test_leaks_are_those_of_the_twin(seed, count, threshold):
    rows = clusters(seed, count, 12, 0.3)
    draw = np.random.default_rng(seed)
    splits = draw.choice(np.array(["train", "val", "test", None], dtype=object), count)
    unit = twin.unit(rows)
    for leak in split_leaks(rows, splits.tolist(), threshold, block_size=8):
        one, other = (np.flatnonzero(splits == name) for name in leak.splits)
        cosine = twin.cosines(unit[one], unit[other])
        assert leak.highest == cosine.max()
        assert cosine[np.flatnonzero(one == leak.rows[0]), np.flatnonzero(other == leak.rows[1])]
        assert leak.pairs == (cosine >= np.float32(threshold)).sum()
        assert leak.leaking == (cosine >= np.float32(threshold)).any(0).sum()


def test_the_same_letters_on_both_sides_leak_whole():
    (leak,) = split_leaks(np.eye(3), ["train", "val", "train"], 0.9, ["A cat", "a cat.", "dog"])
    assert (leak.highest, leak.pairs, leak.leaking) == (1, 1, 1)
    with pytest.raises(TableError, match="2 splits but 3"):
        split_leaks(np.eye(3), ["train", "val"], 0.9)

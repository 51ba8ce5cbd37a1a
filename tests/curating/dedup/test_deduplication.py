from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.curating.dedup import twin
from unprompt.curating.dedup import exact_search as searching
from unprompt.curating.dedup.deduplication import Deduplication, deduplicate
from unprompt.errors import TableError, UnpromptError
from unprompt.pairs.table import Pair, PairsTable

KEEPS = ["first", "longest", "central"]


def with_torch(*arguments, **options) -> Deduplication:
    """As `deduplicate` does for sets of more than a few thousand rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(searching, "_FEW", 0)
        patch.setattr(searching, "_integers_are_fast", lambda: True)
        return deduplicate(*arguments, **options)


def check(
    embeddings: np.ndarray, threshold: float, keep: str = "first", prompts: list[str] | None = None
) -> Deduplication:
    """The answer, after it was found equal to the twin's."""
    found = with_torch(embeddings, threshold, keep, prompts=prompts, block_size=7)
    plain = deduplicate(embeddings, threshold, keep, prompts=prompts, block_size=7)
    assert (found.representative_of == plain.representative_of).all()
    wanted = twin.deduplicate(embeddings, threshold, keep, prompts)
    rows = found.items.rows
    pairs = sorted(
        (int(rows[i]), int(rows[j]))
        for i, j in zip(found.pairs.first, found.pairs.second, strict=True)
    )
    assert pairs == wanted.pairs
    assert found.kept.tolist() == wanted.kept
    assert found.group_of.tolist() == wanted.group_of
    assert found.representative_of.tolist() == wanted.representative_of
    return found


def clusters(seed: int, count: int, dim: int, spread: float) -> np.ndarray:
    """Rows scattered around few centres, so that near-duplicates abound."""
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(max(1, count // 4), dim))
    rows = centres[draw.integers(len(centres), size=count)]
    return rows + spread * draw.normal(size=(count, dim))


@settings(max_examples=50)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 40),
    dim=st.sampled_from([1, 2, 3, 8, 33, 70]),
    spread=st.sampled_from([0.0, 0.05, 0.2, 0.5, 1.0]),
    threshold=st.sampled_from([0.1, 0.5, 0.7, 0.9, 0.95, 1.0]),
    keep=st.sampled_from(KEEPS),
    data=st.data(),
)
def test_is_its_twin_on_random_sets(seed, count, dim, spread, threshold, keep, data):
    words = st.sampled_from(["a cat", "A CAT!", "a  cat ", "dog", "dog of war", "…", "—", "Straße"])
    prompts = data.draw(st.lists(words, min_size=count, max_size=count))
    check(clusters(seed, count, dim, spread), threshold, keep, prompts)


@settings(max_examples=50)
@given(
    rows=arrays(
        np.float32,
        st.tuples(st.integers(1, 25), st.integers(1, 5)),
        elements=st.sampled_from([-1.0, -0.5, 0.0, 0.25, 0.5, 1.0, 3.0, 1e-20, 1e20]),
    ),
    threshold=st.floats(0.01, 1.0),
    keep=st.sampled_from(["first", "central"]),
)
def test_is_its_twin_on_few_directions_and_many_ties(rows, threshold, keep):
    rows = rows[np.abs(rows).max(1) > 0]
    check(rows, threshold, keep)


@pytest.mark.parametrize("dim", [2, 64, 384])
@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9, 0.99])
def test_decides_to_the_last_bit_at_the_threshold(dim, threshold):
    # Pairs of unit vectors whose cosine is the threshold, give or take a few float32 steps.
    draw = np.random.default_rng(dim)
    rows = []
    for step in range(-8, 9):
        x, y = np.linalg.qr(draw.normal(size=(dim, 2)))[0].T
        near = threshold + step * np.spacing(np.float32(threshold)) / 2
        rows += [x, near * x + np.sqrt(1 - near**2) * y]
    check(np.array(rows), threshold)


def test_a_threshold_near_zero_counts_no_pair_twice():
    # There even the zeros that fill up a block of codes reach the least product.
    rows = np.full((8, 4), 0.25)
    rows[[0, 1, 2], 0] = -1, -0.5, 0
    rows[[5, 6, 4], 1] = -1, -0.5, 0
    rows[3, 2] = -1
    check(rows, 0.01)
    check(rows, 0.01, "central")


def test_a_chain_is_one_group_though_its_ends_are_far_apart():
    angles = np.deg2rad(np.arange(0, 90, 10))
    found = check(np.stack([np.cos(angles), np.sin(angles)], 1), threshold=0.98)
    assert [group.tolist() for group in found.groups] == [list(range(9))]
    # Greedy by row: 0 drops 1, 2 drops 3, and so on.
    assert found.kept.tolist() == [0, 2, 4, 6, 8]


def test_no_two_kept_are_near_and_every_removed_has_a_kept_neighbour():
    rows = twin.unit(clusters(5, 400, 16, 0.3))
    cosine = rows.astype(np.float64) @ rows.T.astype(np.float64)
    for keep in ("first", "central"):
        found = deduplicate(rows, 0.8, keep)
        among = cosine[np.ix_(found.kept, found.kept)] - np.eye(len(found.kept))
        assert among.max() < 0.8 + 1e-7
        assert (cosine[found.removed, found.representative_of[found.removed]] >= 0.8 - 1e-7).all()
        assert sorted([*found.kept, *found.removed]) == list(range(400))
        assert len(found.removed) > 100


@pytest.mark.parametrize("keep", KEEPS)
def test_same_answer_whatever_the_block_size_and_the_threads(keep):
    rows = clusters(1, 400, 100, 0.25)
    prompts = [f"prompt {number % 370}" + "!" * (number % 7) for number in range(400)]
    import torch

    answers = []
    before = torch.get_num_threads()
    for block_size, threads in [(7, 2), (64, 1), (400, 2), (4096, 2)]:
        torch.set_num_threads(threads)
        answers.append(with_torch(rows, 0.8, keep, prompts=prompts, block_size=block_size))
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    for other in answers[1:]:
        assert (other.representative_of == answers[0].representative_of).all()
        assert (other.similarity == answers[0].similarity).all()
        assert other.pairs.cosine.tobytes() == answers[0].pairs.cosine.tobytes()


def test_a_templated_set_of_28000_rows_keeps_all_of_its_20000_distinct_prompts():
    # The starting point keeps 16,000 of this set: it drops whole groups (FIELD.md, section 1).
    draw = np.random.default_rng(0)
    distinct = draw.normal(size=(20_000, 64)).astype(np.float32)
    rows = np.concatenate([distinct, np.repeat(distinct[:4000], 2, axis=0)])
    found = deduplicate(rows, 0.9)
    assert found.kept.tolist() == list(range(20_000))
    assert [len(group) for group in found.groups] == [3] * 4000


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("threshold", [0.8, 0.85, 0.9, 1.0])
def test_rethreshold_is_a_new_search(keep, threshold):
    rows = clusters(3, 300, 24, 0.2)
    prompts = [f"{'x' * (number % 11)}{number}" for number in range(300)]
    new = deduplicate(rows, threshold, keep, prompts=prompts)
    again = deduplicate(rows, 0.8, keep, prompts=prompts).rethreshold(threshold)
    assert again.summary() == new.summary()
    assert (again.representative_of == new.representative_of).all()
    assert (again.group_of == new.group_of).all()
    assert (again.similarity == new.similarity).all()
    assert again.rethreshold(0.8).summary()["threshold"] == 0.8


def test_rethreshold_below_what_was_searched_is_refused():
    with pytest.raises(UnpromptError, match=r"search stopped at 0\.9"):
        deduplicate(np.eye(3), 0.9).rethreshold(0.5)


def test_letters_fold_before_any_search():
    prompts = ["A cat, sitting", "a cat sitting", "  a CAT - sitting.", "a cat, sitting up"]
    # Embeddings that have nothing to do with each other: only the letters join the first three.
    found = deduplicate(np.eye(4), 0.9, prompts=prompts)
    assert found.kept.tolist() == [0, 3]
    assert found.representative_of.tolist() == [0, 0, 0, 3]
    assert deduplicate(np.eye(4), 0.9, "longest", prompts=prompts).kept.tolist() == [2, 3]


def test_central_keeps_the_one_with_most_near_duplicates():
    angles = np.deg2rad([0, 10, 20])
    found = deduplicate(np.stack([np.cos(angles), np.sin(angles)], 1), 0.98, "central")
    assert found.kept.tolist() == [1]


def test_summary_and_similarity_are_about_rows():
    angles = np.deg2rad([0, 1, 5, 90, 90])
    found = deduplicate(np.stack([np.cos(angles), np.sin(angles)], 1), 0.9)
    assert found.summary() == {
        "threshold": 0.9,
        "keep": "first",
        "rows": 5,
        "distinct": 4,
        "pairs": 3,
        "groups": 2,
        "largest_group": 3,
        "kept": 2,
        "removed": 3,
    }
    near = [pytest.approx(np.cos(np.deg2rad(angle))) for angle in (1, 5)]
    assert found.similarity.tolist() == [1, *near, 1, 1]
    assert found.removed.tolist() == [1, 2, 4]


def test_a_table_is_deduplicated_by_its_embeddings(tmp_path):
    pairs = [Pair(f"p{k}", "a.png", f"prompt {k}", embedding=[1.0, k % 2]) for k in range(4)]
    table = PairsTable.from_pairs(pairs, tmp_path)
    assert deduplicate(table, 0.9).kept.tolist() == [0, 1]


def test_nothing_at_all_gives_nothing():
    found = deduplicate(np.empty((0, 8)), 0.9)
    assert found.summary()["kept"] == 0
    assert found.groups == []
    assert found.removed.tolist() == []


@pytest.mark.parametrize("bad", [0.0, -0.5, 1.1, float("nan")])
def test_a_threshold_that_is_none_is_refused(bad):
    with pytest.raises(UnpromptError, match="threshold"):
        deduplicate(np.eye(3), bad)


def test_wrong_calls_are_refused(tmp_path):
    with pytest.raises(UnpromptError, match="first, longest, central"):
        deduplicate(np.eye(3), 0.9, "last")
    with pytest.raises(UnpromptError, match="needs the prompts"):
        deduplicate(np.eye(3), 0.9, "longest")
    with pytest.raises(TableError, match="2 prompts but 3"):
        deduplicate(np.eye(3), 0.9, prompts=["a", "b"])
    with pytest.raises(TableError, match="shape"):
        deduplicate(np.zeros(3), 0.9)


def test_a_table_without_embeddings_is_encoded(tmp_path):
    prompts = ["a red fox in the snow", "a red fox in snow", "an empty harbour at night"]
    pairs = [Pair(str(row), f"{row}.png", prompt) for row, prompt in enumerate(prompts)]
    found = deduplicate(PairsTable.from_pairs(pairs, tmp_path), 0.9)
    assert found.kept.tolist() == [0, 2]


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_an_embedding_without_direction_is_named(value):
    rows = np.eye(5)
    rows[3] = value
    with pytest.raises(TableError, match="row 4"):
        deduplicate(rows, 0.9)


def test_too_many_pairs_are_refused_before_memory_runs_out():
    rows = np.ones((100, 4)) + np.random.default_rng(0).normal(size=(100, 4)) * 0.01
    with pytest.raises(UnpromptError, match="more than 1,000 pairs"):
        deduplicate(rows, 0.5, max_pairs=1000)

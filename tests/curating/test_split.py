from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.curating.dedup import twin
from unprompt.curating.split import GroupSplit, split_by_group
from unprompt.errors import UnpromptError
from unprompt.pairs.table import Pair, PairsTable, save


def table_of(
    embeddings: np.ndarray, sources: list[str] | None = None, prompts: list[str] | None = None
) -> PairsTable:
    return PairsTable.from_pairs(
        [
            Pair(
                f"id{row:05}",
                f"{row}.png",
                prompts[row] if prompts else f"prompt {row}",
                source=sources[row] if sources else None,
                embedding=embedding,
            )
            for row, embedding in enumerate(embeddings)
        ],
        "images",
    )


def scattered(seed: int, count: int, dim: int = 16, per_group: int = 3) -> np.ndarray:
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(max(1, count // per_group), dim))
    return centres[draw.integers(len(centres), size=count)] + 0.1 * draw.normal(size=(count, dim))


def highest_across(found: GroupSplit, one: str, other: str) -> float:
    rows = twin.unit(found.table.embeddings).astype(np.float64)
    split = np.array(found.table.column("split"))
    return float((rows[split == one] @ rows[split == other].T).max())


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(40, 200),
    threshold=st.sampled_from([0.5, 0.7, 0.9]),
    val=st.sampled_from([0.0, 0.1, 0.3]),
    sources=st.integers(1, 3),
)
def test_no_group_straddles_and_no_prompt_leaks(seed, count, threshold, val, sources):
    rows = scattered(seed, count)
    found = split_by_group(
        table_of(rows, [f"s{row % sources}" for row in range(count)]), val, 0.1, threshold, seed
    )
    group, split = found.table.column("group"), found.table.column("split")
    assert all(
        len({s for g, s in zip(group, split, strict=True) if g == one}) == 1 for one in set(group)
    )
    assert group == twin.deduplicate(rows.astype(np.float16), threshold, "first").group_of
    for leak in found.leaks:
        assert leak.pairs == leak.leaking == 0
        assert leak.highest < threshold
        assert leak.highest == pytest.approx(highest_across(found, *leak.splits), abs=1e-6)
    assert split.count("test") == found.rows["test"] > 0
    assert found.rows.get("val", 0) == split.count("val")


def test_shares_are_kept_in_every_source():
    sources = ["big"] * 800 + ["small"] * 200
    found = split_by_group(table_of(scattered(0, 1000), sources), 0.1, 0.2, 0.7)
    assert found.rows["val"] == pytest.approx(100, abs=6)
    assert found.rows["test"] == pytest.approx(200, abs=6)
    assert found.rows_by_source["small"]["val"] == pytest.approx(20, abs=5)
    assert found.rows_by_source["small"]["test"] == pytest.approx(40, abs=5)


def test_the_same_seed_gives_the_same_split_in_any_order_of_rows():
    rows = scattered(1, 300)
    table = table_of(rows)
    once = split_by_group(table, seed=5)
    again = split_by_group(table.take(np.random.default_rng(0).permutation(300)), seed=5)
    by_id = dict(zip(again.table.column("id"), again.table.column("split"), strict=True))
    assert [by_id[name] for name in table.column("id")] == once.table.column("split")
    assert split_by_group(table, seed=6).table.column("split") != once.table.column("split")


def test_folds_cover_all_but_test_and_are_even():
    found = split_by_group(table_of(scattered(2, 600)), test=0.1, folds=5)
    fold, split = found.table.column("fold"), found.table.column("split")
    assert {f for f, s in zip(fold, split, strict=True) if s == "test"} == {None}
    assert {f for f, s in zip(fold, split, strict=True) if s == "val"} == {0}
    sizes = [fold.count(number) for number in range(5)]
    assert sum(sizes) == 600 - split.count("test")
    assert max(sizes) - min(sizes) <= 12
    group = found.table.column("group")
    assert all(
        len({f for g, f in zip(group, fold, strict=True) if g == one}) == 1 for one in set(group)
    )


def test_a_template_that_fills_half_of_the_table_stays_in_train():
    rows = np.concatenate([np.ones((500, 8)), scattered(3, 500, 8, per_group=2)])
    rows[:500] += 0.01 * np.random.default_rng(0).normal(size=(500, 8))
    found = split_by_group(table_of(rows), 0.1, 0.1, 0.95)
    assert set(found.table.column("split")[:500]) == {"train"}
    assert found.always_train[0] >= 1
    assert found.always_train[1] >= 500
    assert "stay in train" in str(found)


def test_prompts_of_the_same_letters_are_one_group_whatever_their_embeddings():
    prompts = ["A cat!" if row % 10 == 0 else f"prompt {row}" for row in range(100)]
    found = split_by_group(table_of(np.eye(100), prompts=prompts), 0.1, 0.1)
    split = found.table.column("split")
    assert len({split[row] for row in range(0, 100, 10)}) == 1
    assert found.largest == 10


def test_a_source_without_rows_in_a_split_is_told():
    sources = ["wide"] * 99 + ["rare"]
    found = split_by_group(table_of(np.eye(100), sources), 0.1, 0.1)
    assert "source rare has no row in" in str(found)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"val": -0.1}, "shares"),
        ({"val": 0.6, "test": 0.4}, "shares"),
        ({"test": float("nan")}, "shares"),
        ({"threshold": 0}, "threshold"),
        ({"folds": 1}, "at least 2"),
    ],
)
def test_wrong_calls_are_refused(arguments, message):
    with pytest.raises(UnpromptError, match=message):
        split_by_group(table_of(np.eye(10)), **arguments)


def test_what_cannot_be_split_is_refused():
    with pytest.raises(UnpromptError, match="no rows"):
        split_by_group(table_of(np.empty((0, 384))))
    with pytest.raises(UnpromptError, match="too few or too large"):
        split_by_group(table_of(np.ones((50, 4))))
    with pytest.raises(UnpromptError, match="too few or too large"):
        split_by_group(table_of(np.eye(3)), test=0.0, folds=4)


def test_a_table_without_embeddings_is_encoded_and_may_be_a_path(tmp_path):
    pairs = [Pair(name, f"{name}.png", f"{name} dog on a {name} hill") for name in "abcdefgh"]
    bare = PairsTable.from_pairs(pairs, tmp_path)
    save(bare, tmp_path / "bare.parquet")
    found = split_by_group(tmp_path / "bare.parquet", 0.2, 0.2, 0.999).table
    assert found.has("embedding")
    assert found.column("split") == split_by_group(bare, 0.2, 0.2, 0.999).table.column("split")
    assert {*found.column("split")} == {"train", "val", "test"}


def test_the_real_pairs_split_without_leakage(shared, tmp_path):
    from unprompt.curating.encode_file import with_embeddings
    from unprompt.pairs.table import load

    table = load(shared / "pairs" / "pairs.jsonl")
    first_row = {prompt: row for row, prompt in reversed([*enumerate(table.prompts)])}
    rows = [*first_row.values()][::20]
    found = split_by_group(with_embeddings(table.take(rows)), 0.1, 0.1, 0.7)
    assert min(found.rows.values()) >= 0.04 * len(rows)
    assert all(leak.highest < 0.7 for leak in found.leaks)

from __future__ import annotations

import numpy as np
import pytest

from unprompt.curating.dedup import approximate_search as searching
from unprompt.curating.dedup.approximate_search import approximate_search, measure_recall
from unprompt.curating.dedup.deduplication import deduplicate
from unprompt.curating.dedup.exact_search import exact_search
from unprompt.curating.dedup.neighbour_pairs import collect, normalise


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(800, 48))
    return normalise(centres[draw.integers(800, size=4000)] + 0.25 * draw.normal(size=(4000, 48)))


def keys(found) -> set[tuple[int, int]]:
    return set(zip(found.first.tolist(), found.second.tolist(), strict=True))


def test_what_is_found_is_right_and_the_recall_is_measured(rows):
    exact = collect(exact_search(rows, 0.9))
    for probes, least, most in ((1, 0.5, 0.999), (64, 0.99, 1.0)):
        found = collect(approximate_search(rows, 0.9, probes))
        assert keys(found) <= keys(exact)
        true = len(found) / len(exact)
        assert least <= true <= most
        assert measure_recall(rows, 0.9, found) == pytest.approx(true, abs=0.05)
    assert measure_recall(rows, 0.9, exact) == 1
    assert measure_recall(np.eye(30, dtype=np.float32), 0.9, collect([])) == 1


def test_deduplicate_says_how_much_an_approximate_search_found(rows):
    found = deduplicate(rows, 0.9, approximate=True)
    assert found.recall > 0.95
    assert found.summary()["recall"] == found.recall
    assert found.rethreshold(0.95).recall == found.recall
    assert "recall" not in deduplicate(rows[:100], 0.9).summary()
    assert len(found.kept) == pytest.approx(len(deduplicate(rows, 0.9).kept), abs=40)


def test_lists_of_the_nearest_that_are_full_are_searched_exactly(rows, monkeypatch):
    # What a GPU does, which returns the nearest instead of all within reach.
    import faiss

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", lambda index: index, raising=False)
    monkeypatch.setattr(searching, "_GPU_NEIGHBOURS", 4)
    found = collect(approximate_search(rows, 0.9, probes=1000))
    assert keys(found) == keys(collect(exact_search(rows, 0.9)))
    # Each row's list held 4, itself among them.
    assert len(found) > 4 * len(rows) / 2


def test_no_rows_no_pairs():
    assert len(collect(approximate_search(np.empty((0, 8), np.float32), 0.9))) == 0

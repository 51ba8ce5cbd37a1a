from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.curating.dedup import twin
from unprompt.curating.dedup import exact_search as searching
from unprompt.curating.dedup.cosine_bounds import (
    choose_width,
    encode,
    leading_axes,
    least_product,
    shorten,
)
from unprompt.curating.dedup.exact_search import FloatScreen, IntegerScreen, exact_search, highest
from unprompt.curating.dedup.neighbour_pairs import collect, components, cosines, normalise
from unprompt.errors import MissingExtraError, UnpromptError


def decaying(seed: int, count: int, dim: int) -> np.ndarray:
    """Unit rows whose coordinates grow smaller, as those of real prompts do on their axes."""
    rows = np.random.default_rng(seed).normal(size=(count, dim)) / np.arange(1, dim + 1) ** 0.5
    return normalise(rows)


def pairs_of(found) -> list[tuple[int, int]]:
    return list(zip(found.first.tolist(), found.second.tolist(), strict=True))


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    dim=st.sampled_from([2, 5, 40, 100]),
    width=st.sampled_from([2, 8, 32, 64]),
    one_hot=st.booleans(),
)
def test_products_of_codes_bound_cosines_from_above(seed, dim, width, one_hot):
    rows = decaying(seed, 60, dim)
    if one_hot:  # the worst for int8: one large coordinate, or all of them in the rest
        rows[::2] = np.eye(dim, dtype=np.float32)[np.arange(30) % dim]
    width = min(width, dim)
    short = shorten(rows, leading_axes(rows), width)
    cosine = rows.astype(np.float64) @ rows.T
    wide = short.astype(np.float64)
    assert (wide @ wide.T >= cosine - 1e-6).all()
    codes = encode(short, np.abs(short).max() / 127)
    products = codes.values.astype(np.int64) @ codes.values.T.astype(np.int64)
    for i in range(60):
        least = [
            least_product(c, codes.step, codes.error[i], e)
            for c, e in zip(cosine[i], codes.error, strict=True)
        ]
        assert (products[i] >= least).all()


@pytest.mark.parametrize("threshold", [0.3, 0.7, 0.9])
@pytest.mark.parametrize("screen", [IntegerScreen, FloatScreen])
def test_screens_miss_nothing_and_pass_little(threshold, screen):
    rows = decaying(0, 240, 128)
    short = shorten(rows, leading_axes(rows), 64)
    device = ("cpu",) if screen is IntegerScreen else ()
    screen = screen(short, short, threshold, 96, *device)
    true = twin.cosines(rows, rows) >= np.float32(threshold)
    passed = np.zeros((240, 240), int)
    for top in range(0, 240, 96):
        for left in range(0, 240, 96):
            np.add.at(passed, screen(top, left), 1)
    assert passed.max() == 1
    assert (passed[true] == 1).all()
    assert passed.sum() < true.sum() + 0.2 * passed.size


@pytest.mark.parametrize("with_torch", [True, False])
@pytest.mark.parametrize("block_size", [1, 5, 33, 1000])
def test_two_sets_are_searched_as_by_the_twin(block_size, with_torch, monkeypatch):
    if with_torch:
        monkeypatch.setattr(searching, "_FEW", 0)
        monkeypatch.setattr(searching, "_integers_are_fast", lambda: True)
    left, right = decaying(1, 70, 40), decaying(2, 45, 40)
    right[:10] = left[30:40]
    found = collect(exact_search(left, 0.6, right, block_size))
    wanted = twin.cosines(left, right)
    assert pairs_of(found) == list(
        zip(*map(list, np.nonzero(wanted >= np.float32(0.6))), strict=True)
    )
    assert found.cosine.tolist() == wanted[found.first, found.second].tolist()
    assert highest(left, right, block_size) == (30, 0, wanted[30, 0])


def test_without_torch_the_answer_is_the_same(monkeypatch):
    monkeypatch.setattr(searching, "_FEW", 0)
    monkeypatch.setattr(searching, "_integers_are_fast", lambda: True)
    rows = decaying(3, 300, 384)
    with_torch = collect(exact_search(rows, 0.5))
    monkeypatch.setattr(searching.importlib.util, "find_spec", lambda name: None)
    without = collect(exact_search(rows, 0.5))
    assert pairs_of(without) == pairs_of(with_torch)
    assert without.cosine.tobytes() == with_torch.cosine.tobytes()
    with pytest.raises(MissingExtraError):
        next(exact_search(rows, 0.5, device="cuda"))


def test_a_processor_without_fast_integers_gives_the_same_answer(monkeypatch):
    monkeypatch.setattr(searching, "_FEW", 0)
    rows = decaying(3, 300, 384)
    answers = []
    for fast in (True, False):
        monkeypatch.setattr(searching, "_integers_are_fast", lambda fast=fast: fast)
        answers.append(collect(exact_search(rows, 0.5, block_size=64)))
    assert pairs_of(answers[0]) == pairs_of(answers[1])
    assert answers[0].cosine.tobytes() == answers[1].cosine.tobytes()


@pytest.mark.parametrize("device", ["toaster", "cuda:99"])
def test_a_device_that_does_not_exist_is_refused(device):
    with pytest.raises(UnpromptError, match=f"device '{device}' cannot be used"):
        next(exact_search(decaying(3, 10, 8), 0.5, device=device))


@pytest.mark.parametrize("device", ["cpu:0", "cuda:0"])
def test_every_torch_device_gives_the_same_answer(device):
    import torch

    if device == "cuda:0" and not torch.cuda.is_available():
        pytest.skip("this computer has no GPU")
    rows = decaying(3, 300, 384)
    there, expected = (collect(exact_search(rows, 0.5, device=name)) for name in (device, "cpu"))
    assert pairs_of(there) == pairs_of(expected)
    assert there.cosine.tobytes() == expected.cosine.tobytes()


def test_lower_thresholds_are_searched_with_longer_codes():
    rows = decaying(5, 4000, 384)
    axes = leading_axes(rows)
    widths = [choose_width(rows, rows, axes, threshold) for threshold in (0.95, 0.7, 0.3)]
    assert widths == sorted(widths)
    assert widths[0] < 384


def test_an_empty_set_has_no_pairs():
    rows, none = decaying(6, 5, 8), np.empty((0, 8), np.float32)
    assert len(collect(exact_search(none, 0.5))) == 0
    assert len(collect(exact_search(rows, 0.5, none))) == 0
    assert len(collect(exact_search(none, 0.5, rows))) == 0
    assert highest(none, rows)[:2] == (-1, -1)


def test_a_cosine_does_not_depend_on_its_neighbours():
    rows = decaying(7, 50, 384)
    i, j = np.triu_indices(50)
    together = cosines(rows, rows, i, j)
    alone = [cosines(rows, rows, i[k : k + 1], j[k : k + 1])[0] for k in range(len(i))]
    assert together.tolist() == alone
    assert (together == twin.cosines(rows, rows)[i, j]).all()


@given(st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=60), st.integers(1, 9))
def test_components_are_those_of_the_graph(edges, chunk):
    from unprompt.curating.dedup.neighbour_pairs import NeighbourPairs

    edges = [(min(edge), max(edge)) for edge in edges]
    chunks = [
        NeighbourPairs(
            np.array([a for a, _ in edges[k : k + chunk]], np.int32),
            np.array([b for _, b in edges[k : k + chunk]], np.int32),
            np.ones(len(edges[k : k + chunk]), np.float32),
        )
        for k in range(0, len(edges), chunk)
    ]
    label = list(range(30))
    for _ in range(30):
        for a, b in edges:
            label[a] = label[b] = min(label[a], label[b])
    assert components(30, chunks).tolist() == label

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unprompt.errors import MissingExtraError, ModelNotFoundError, OutputError, UnpromptError
from unprompt.models.bank import bank as module
from unprompt.models.bank.bank import (
    BANK_FOLDER,
    Bank,
    Calibration,
    Match,
    quantise,
    recall,
    write_bank,
)

ENCODER = "sentence-transformers/all-MiniLM-L6-v2"


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def drawn(count: int, dim: int = 16, seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(count, dim))).astype(np.float32)


def bank_of(rows: np.ndarray) -> Bank:
    return Bank.build([f"prompt {row}" for row in range(len(rows))], rows, ENCODER)


def brute_force(bank: Bank, asked: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    scores = unit(asked.astype(np.float64)) @ unit(np.array(bank.rows, dtype=np.float64)).T
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return best, np.take_along_axis(scores, best, axis=1)


@settings(max_examples=60)
@given(
    count=st.integers(1, 60),
    k=st.integers(1, 70),
    block=st.integers(1, 64),
    seed=st.integers(0, 1000),
    scale=st.sampled_from([1e-3, 1.0, 1e4]),
)
def test_search_is_brute_force_whatever_the_block(count, k, block, seed, scale):
    bank = bank_of(drawn(count, seed=seed))
    asked = drawn(5, seed=seed + 1) * scale
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", block)
        rows, scores = bank.nearest(asked, k)
    expected = brute_force(bank, asked, k)[1]
    assert rows.shape == scores.shape == (5, min(k, count))
    assert rows.dtype == np.int64
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, atol=2e-6)
    # Rows may change places only where their cosines are equal in float32.
    every = unit(asked.astype(np.float64)) @ unit(np.array(bank.rows, dtype=np.float64)).T
    np.testing.assert_allclose(np.take_along_axis(every, rows, axis=1), expected, atol=2e-6)
    assert all(len(set(line)) == len(line) for line in rows.tolist())


def test_ties_go_to_the_earlier_row(monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 4)
    rows = np.tile(drawn(1), (10, 1))
    assert bank_of(rows).nearest(rows[:1], 10)[0].tolist() == [list(range(10))]


@settings(max_examples=40)
@given(dim=st.sampled_from([2, 16, 384]), seed=st.integers(0, 10_000))
def test_rounding_turns_a_vector_by_less_than_a_degree(dim, seed):
    rows = drawn(50, dim, seed)
    stored = quantise(rows)
    assert stored.dtype == np.int8
    assert (np.abs(stored).max(axis=1) == 127).all()
    cosines = np.einsum("ij,ij->i", unit(stored.astype(np.float64)), rows.astype(np.float64))
    assert np.degrees(np.arccos(np.clip(cosines, -1, 1))).max() < 1


def test_rows_without_a_direction_do_no_harm():
    rows = drawn(4)
    rows[2] = 0
    bank = bank_of(rows)
    found, scores = bank.nearest(np.vstack([rows[1], np.zeros(16)]), 4)
    assert found[0, 0] == 1
    assert np.isfinite(scores).all()
    assert (scores[1] == 0).all()


def test_prompts_that_repeat_are_kept_once_the_first_of_them():
    rows = drawn(5)
    bank = Bank.build(["a cat", "a dog", "a  cat", "a\ncat ", "a fish"], rows, ENCODER)
    assert list(bank.prompts) == ["a cat", "a dog", "a fish"]
    np.testing.assert_array_equal(bank.rows, quantise(rows[[0, 1, 4]]))
    assert len(bank) == 3


@settings(max_examples=40)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), min_size=1))
def test_what_was_saved_is_loaded(tmp_path_factory, prompts):
    folder = tmp_path_factory.mktemp("bank")
    calibration = Calibration((0.1, 0.8), (0.2, 0.5), 20, 0.05)
    bank = Bank.build(prompts, drawn(len(prompts)), ENCODER).calibrated(calibration)
    bank.save(folder)
    loaded = Bank.load(folder)
    assert list(loaded.prompts) == list(bank.prompts)
    np.testing.assert_array_equal(loaded.rows, bank.rows)
    assert (loaded.encoder, loaded.calibration) == (ENCODER, calibration)
    assert isinstance(loaded.rows, np.memmap)


def test_a_memory_mapped_bank_gives_the_same_answers(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 7)
    bank = bank_of(drawn(40))
    bank.save(tmp_path)
    asked = drawn(3, seed=5)
    assert Bank.load(tmp_path).search(asked, 5) == bank.search(asked, 5)
    assert Bank.load(tmp_path).calibration is None


def test_search_gives_prompts_best_first():
    rows = drawn(6)
    ((first, *others),) = bank_of(rows).search(rows[3:4], 3)
    assert first.prompt == "prompt 3"
    assert first.cosine > 0.999
    assert isinstance(first, Match)
    assert [first.cosine, *[m.cosine for m in others]] == sorted(
        [first.cosine, *[m.cosine for m in others]], reverse=True
    )
    assert len(bank_of(rows).search(rows[3:4])[0]) == 1


def test_the_answer_stands_out_from_the_prompts_around():
    """A hub is near to whatever is asked for; CSLS by hand, with every prompt around."""
    random = np.random.default_rng(2)
    usual = drawn(1, seed=1)[0]
    rows = unit(0.7 * usual + drawn(60, seed=4) * random.uniform(0.5, 1, (60, 1)))
    bank = bank_of(np.vstack([rows, usual[None]]))
    asked = unit(rows[:8] + 0.9 * drawn(8, seed=6) + 0.9 * usual)
    found, signs = bank.answers(asked, 5)
    known = bank.embeddings(np.arange(len(bank)))
    cosine, hubs = asked @ known.T, (known @ known.T).mean(axis=1)
    by_hand = 2 * cosine - hubs - cosine.mean(axis=1, keepdims=True)
    np.testing.assert_array_equal(found, np.argsort(-by_hand, axis=1)[:, :5])
    np.testing.assert_allclose(signs, np.take_along_axis(by_hand, found, axis=1), atol=1e-5)
    np.testing.assert_allclose(bank.stand_out(asked, bank.embeddings(found)), signs, atol=1e-6)
    hub = len(bank) - 1
    assert (bank.nearest(asked)[0] == hub).sum() > (found[:, 0] == hub).sum()


def test_only_the_prompts_around_count(monkeypatch):
    monkeypatch.setattr(module, "NEIGHBOURS", 4)
    bank, asked = bank_of(drawn(50)), drawn(3, seed=5)
    found, _ = bank.answers(asked, 2)
    near = bank.nearest(asked, 4)[0]
    assert all(set(row) <= set(around) for row, around in zip(found, near, strict=True))
    assert bank.answers(asked, 6)[0].shape == (3, 6)
    assert bank_of(drawn(2)).answers(asked, 9)[0].shape == (3, 2)


def test_banks_that_cannot_be():
    with pytest.raises(UnpromptError, match="2 prompts but 3 embeddings"):
        Bank(["a", "b"], quantise(drawn(3)), ENCODER)
    with pytest.raises(UnpromptError, match="holds no prompts"):
        Bank.build([], np.empty((0, 16)), ENCODER)


def test_folders_that_hold_no_whole_bank(tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"bank\.json is missing"):
        Bank.load(tmp_path)
    folder = tmp_path / BANK_FOLDER

    def broken(file: str, content: bytes) -> None:
        bank_of(drawn(4)).save(tmp_path)
        (folder / file).write_bytes(content)
        with pytest.raises(UnpromptError, match=r"bank(/bank\.json)? is damaged"):
            Bank.load(tmp_path)

    broken("bank.json", b"{")
    broken("bank.json", b"[]")
    broken("bank.json", json.dumps({"encoder": ENCODER}).encode())
    broken("bank.json", json.dumps({"encoder": ENCODER, "calibration": {"a": 1}}).encode())
    broken("embeddings.npy", b"nothing")
    broken("embeddings.npy", b"")
    broken("prompts.txt", b"one\ntwo\n")
    broken("prompts.txt", b"\xff\xfe\n\n\n\n")
    bank_of(drawn(4)).save(tmp_path)
    (folder / "prompts.txt").unlink()
    with pytest.raises(ModelNotFoundError, match=r"prompts\.txt is missing"):
        Bank.load(tmp_path)


def test_a_bank_that_cannot_be_written(tmp_path):
    (tmp_path / BANK_FOLDER).write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        bank_of(drawn(2)).save(tmp_path)


@settings(max_examples=30)
@given(count=st.integers(1, 40), k=st.integers(1, 50), seed=st.integers(0, 1000))
def test_regression_is_the_weighted_mean(count, k, seed):
    bank = bank_of(drawn(count, seed=seed))
    asked, values = drawn(3, seed=seed + 1), drawn(count, dim=5, seed=seed + 2)
    rows, cosines = brute_force(bank, asked, k)
    weights = np.exp(cosines / 0.1)
    for given_values, known in ((None, unit(np.array(bank.rows, dtype=float))), (values, values)):
        expected = unit(np.stack([w @ known[r] for w, r in zip(weights, rows, strict=True)]))
        found = bank.regress(asked, k, 0.1, given_values)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-5)


def blocks_of(rows: np.ndarray, size: int):
    for start in range(0, len(rows), size):
        block = rows[start : start + size]
        yield [f"prompt {start + row}" for row in range(len(block))], block


@pytest.fixture(scope="module")
def clustered() -> np.ndarray:
    """2,000 rows around 60 centres, as prompts are: what cells are made for."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(60, 32))
    return unit(centres[random.integers(60, size=2000)] + random.normal(size=(2000, 32)))


def test_a_bank_written_in_blocks_is_the_same(tmp_path, clustered):
    written = write_bank(tmp_path / "new", blocks_of(clustered, 700), ENCODER)
    whole = bank_of(clustered)
    assert list(written.prompts) == list(whole.prompts)
    np.testing.assert_array_equal(written.rows, whole.rows)
    assert written.encoder == ENCODER
    assert isinstance(written.rows, np.memmap)


@pytest.mark.parametrize("index", ["sq8", "pq"])
def test_an_index_finds_what_brute_force_finds(tmp_path, clustered, index):
    pytest.importorskip("faiss")
    folder = tmp_path / index
    bank = write_bank(folder, blocks_of(clustered, 1000), ENCODER, index)
    assert recall(bank, k=10, queries=100) > 0.9
    assert recall(Bank.load(folder, probes=1), queries=100) < recall(bank, queries=100)
    assert recall(bank.exact()) == 1
    asked = drawn(20, dim=32, seed=3)
    rows, scores = bank.nearest(asked, 5)
    every = unit(asked) @ unit(np.array(bank.rows, dtype=np.float32)).T
    np.testing.assert_allclose(np.take_along_axis(every, rows, axis=1), scores, atol=1e-5)
    assert (np.diff(scores) <= 0).all()
    # More than its cells propose: every row is looked at.
    assert sorted(bank.nearest(asked[:1], 2000)[0][0].tolist()) == list(range(2000))


def test_an_indexed_bank_without_faiss_looks_at_every_row(tmp_path, clustered, monkeypatch):
    pytest.importorskip("faiss")
    write_bank(tmp_path / "bank", blocks_of(clustered, 1000), ENCODER, "sq8")
    monkeypatch.setitem(sys.modules, "faiss", None)
    bank = Bank.load(tmp_path)
    asked = drawn(4, dim=32)
    np.testing.assert_array_equal(
        bank.nearest(asked, 9)[0], bank_of(clustered).nearest(asked, 9)[0]
    )
    with pytest.raises(MissingExtraError, match="faiss"):
        write_bank(tmp_path / "other", blocks_of(clustered, 1000), ENCODER, "sq8")
    assert not (tmp_path / "other").exists()


def test_indexes_that_cannot_be(tmp_path, clustered):
    with pytest.raises(UnpromptError, match="one of flat, sq8, pq"):
        write_bank(tmp_path / "a", blocks_of(clustered, 1000), ENCODER, "hnsw")
    with pytest.raises(UnpromptError, match="holds no prompts"):
        write_bank(tmp_path / "b", [], ENCODER)
    pytest.importorskip("faiss")
    with pytest.raises(UnpromptError, match="at least 256 prompts, not 100"):
        write_bank(tmp_path / "c", blocks_of(clustered[:100], 50), ENCODER, "pq")
    write_bank(tmp_path / "d", blocks_of(clustered, 1000), ENCODER, "sq8")
    with pytest.raises(OutputError, match="not empty"):
        write_bank(tmp_path / "d", blocks_of(clustered, 1000), ENCODER)
    (tmp_path / "d" / "index.faiss").write_bytes(b"nothing of the kind")
    with pytest.raises(UnpromptError, match="damaged"):
        Bank.load(tmp_path / "d")

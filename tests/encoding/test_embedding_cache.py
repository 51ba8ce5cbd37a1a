"""The cache: keyed by encoder and text, shared by processes, and never in the way."""

import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from unprompt.encoding import EmbeddingCache, PromptEncoder, encode, load_encoder
from unprompt.encoding import embedding_cache as cache_module

WRITER = """
import sys
import numpy as np
from unprompt.encoding import EmbeddingCache

folder, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
store = EmbeddingCache("test", 8, folder)
print("ready", flush=True)
for start in range(first, first + count, 10):
    numbers = range(start, start + 10)
    vectors = np.array([np.full(8, n, dtype=np.float32) for n in numbers])
    store.write([f"prompt {n}" for n in numbers], vectors)
    print(start + 10, flush=True)
"""


@pytest.fixture
def store(tmp_path: Path) -> EmbeddingCache:
    return EmbeddingCache("test", 8, tmp_path)


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of this test's own."""
    monkeypatch.setenv("UNPROMPT_CACHE", str(tmp_path))
    return tmp_path / "embeddings"


def read(store: EmbeddingCache, numbers: range) -> tuple[np.ndarray, np.ndarray]:
    out = np.full((len(numbers), 8), -1, dtype=np.float32)
    held = store.read([f"prompt {n}" for n in numbers], out)
    return out, held


def start_writer(folder: Path, first: int, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(folder), str(first), str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_what_is_written_is_read_and_the_rest_is_left_alone(store: EmbeddingCache):
    assert not read(store, range(3))[1].any()
    vectors = np.arange(16, dtype=np.float32).reshape(2, 8)
    store.write(["prompt 0", "prompt 2"], vectors)
    out, held = read(store, range(3))
    assert held.tolist() == [True, False, True]
    assert np.array_equal(out[[0, 2]], vectors)
    assert (out[1] == -1).all()


def test_more_texts_than_one_query_takes(store: EmbeddingCache):
    numbers = range(2 * cache_module._KEYS_PER_QUERY + 7)
    vectors = np.arange(8 * len(numbers), dtype=np.float32).reshape(-1, 8)
    store.write([f"prompt {n}" for n in numbers], vectors)
    out, held = read(store, numbers)
    assert held.all()
    assert np.array_equal(out, vectors)


def test_only_new_texts_are_encoded(
    empty: Path, onnx_encoder: PromptEncoder, monkeypatch: pytest.MonkeyPatch
):
    asked: list[str] = []
    stream = PromptEncoder.stream

    def recorded(self: PromptEncoder, texts: list[str], batch_size: int = 256):
        asked.extend(texts)
        return stream(self, texts, batch_size)

    monkeypatch.setattr(PromptEncoder, "stream", recorded)
    first = encode(["a cat", "a dog", "a cat"], onnx_encoder)
    assert asked == ["a cat", "a dog"]
    assert np.array_equal(first[0], first[2])
    second = encode(["a bird", "a dog"], onnx_encoder)
    assert asked == ["a cat", "a dog", "a bird"]
    assert np.array_equal(second[1], first[1])
    assert np.abs(second - onnx_encoder.encode(["a bird", "a dog"])).max() < 1e-6
    encode(["a cat"], onnx_encoder, cache=False)
    assert asked[-1] == "a cat"


def test_a_caller_served_by_the_cache_loads_no_weights(
    empty: Path, onnx_encoder: PromptEncoder, monkeypatch: pytest.MonkeyPatch
):
    expected = encode(["a cat"], onnx_encoder)
    monkeypatch.setattr(PromptEncoder, "_network", property(lambda self: pytest.fail("loaded")))
    assert np.array_equal(encode(["a cat"], backend="onnx", precision="fp32"), expected)


def test_precisions_do_not_share_embeddings(empty: Path, onnx_encoder: PromptEncoder):
    exact = encode(["a cat on a red roof"], onnx_encoder)
    fast = encode(["a cat on a red roof"], load_encoder(precision="int8"))
    assert np.abs(exact - fast).max() > 1e-4
    assert len(list(empty.glob("*.sqlite"))) == 2


def test_texts_that_differ_in_a_letter_are_different(empty: Path, onnx_encoder: PromptEncoder):
    texts = ["a cat", "a cat ", "A cat", "a cät", "", "\ud83d"]
    encode(texts, onnx_encoder)
    (file,) = empty.glob("*.sqlite")
    with sqlite3.connect(file) as connection:
        assert connection.execute("SELECT count(*) FROM embeddings").fetchone() == (len(texts),)


def test_nothing_to_encode(empty: Path, onnx_encoder: PromptEncoder):
    assert encode([], onnx_encoder).shape == (0, 384)
    assert not empty.exists()


def test_two_processes_write_at_once(store: EmbeddingCache, tmp_path: Path):
    # They overlap in prompts 100 to 199.
    writers = [start_writer(tmp_path, 0, 200), start_writer(tmp_path, 100, 200)]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    out, held = read(store, range(300))
    assert held.all()
    assert np.array_equal(out[:, 0], np.arange(300))


def test_killed_at_any_moment_what_was_acknowledged_is_there(store: EmbeddingCache, tmp_path: Path):
    draw = np.random.default_rng(0)
    first = 0
    for _ in range(4):
        writer = start_writer(tmp_path, first, 100_000)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        acknowledged = [int(writer.stdout.readline())]
        time.sleep(draw.uniform(0, 0.15))
        writer.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in writer.stdout.read().splitlines()]
        writer.wait()
        first = acknowledged[-1]
        out, held = read(store, range(first))
        assert held.all()
        assert np.array_equal(out[:, 0], np.arange(first))


def test_a_killed_run_goes_on_where_it_stopped(
    empty: Path, onnx_encoder: PromptEncoder, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cache_module, "_ROWS_PER_COMMIT", 2)
    texts = [f"a castle number {'x ' * n}" for n in range(6)]
    stream = PromptEncoder.stream

    def dying(self: PromptEncoder, texts: list[str], batch_size: int = 256):
        for count, item in enumerate(stream(self, texts, batch_size)):
            if count == 5:
                raise KeyboardInterrupt
            yield item

    monkeypatch.setattr(PromptEncoder, "stream", dying)
    with pytest.raises(KeyboardInterrupt):
        encode(texts, onnx_encoder)
    monkeypatch.setattr(PromptEncoder, "stream", stream)
    store = EmbeddingCache(onnx_encoder.fingerprint, 384)
    held = store.read(texts, np.empty((6, 384), dtype=np.float32))
    assert held.sum() == 4
    assert np.abs(encode(texts, onnx_encoder) - onnx_encoder.encode(texts)).max() < 1e-6


@pytest.mark.parametrize("damage", ["garbage", "truncated", "not a table"])
def test_a_damaged_file_warns_and_the_prompts_are_encoded_all_the_same(
    damage: str, empty: Path, onnx_encoder: PromptEncoder
):
    texts = [f"a cat, number {n}" for n in range(40)]
    expected = encode(texts, onnx_encoder)
    (file,) = empty.glob("*.sqlite")
    for extra in empty.glob("*.sqlite-*"):
        extra.unlink()
    if damage == "garbage":
        file.write_bytes(b"this is no database" * 1000)
    elif damage == "truncated":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    else:
        with sqlite3.connect(file) as connection:
            connection.execute("DROP TABLE embeddings")
            connection.execute("CREATE TABLE embeddings (other TEXT)")
    with pytest.warns(UserWarning, match="cannot be used") as caught:
        got = encode(texts, onnx_encoder)
    assert np.abs(got - expected).max() < 1e-6
    assert len(caught) == 1
    assert str(file) in str(caught[0].message)
    assert "delete it" in str(caught[0].message)


def test_a_vector_of_another_width_counts_as_absent(store: EmbeddingCache, tmp_path: Path):
    store.write(["prompt 0"], np.ones((1, 8), dtype=np.float32))
    wider = EmbeddingCache("test", 16, tmp_path)
    out = np.zeros((1, 16), dtype=np.float32)
    assert not wider.read(["prompt 0"], out).any()


def test_a_place_that_cannot_be_written_warns_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, onnx_encoder: PromptEncoder
):
    blocked = tmp_path / "file"
    blocked.write_text("here stands a file, not a folder")
    monkeypatch.setenv("UNPROMPT_CACHE", str(blocked))
    monkeypatch.setattr(cache_module, "_ROWS_PER_COMMIT", 1)
    with pytest.warns(UserWarning, match="cannot be used") as caught:
        got = encode(["a cat", "a dog"], onnx_encoder)
    assert len(caught) == 1
    assert np.abs(got - onnx_encoder.encode(["a cat", "a dog"])).max() < 1e-6

"""The numba backend: rounded products, attention, and models of other shapes."""

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from unprompt.encoding import EncoderError, load_encoder

kernels = pytest.importorskip("unprompt.encoding.numba_kernels")
tile = pytest.importorskip("unprompt.encoding.numba_tile")
from unprompt.encoding.numba_weights import Dense, round_layer  # noqa: E402

pytestmark = pytest.mark.skipif(not tile.has_vnni(), reason="the processor has no AVX512-VNNI")

WIDTH = 384


def layer(
    rows: np.ndarray,
    matrix: np.ndarray,
    bias: np.ndarray,
    kind: str,
    bend: bool,
    lines: Sequence[np.ndarray] = (),
    out: str = "float32",
) -> np.ndarray:
    """A linear layer by way of rounded numbers."""
    count = len(rows)
    values = np.zeros((count + 16, rows.shape[1]), np.float32)
    values[:count] = rows
    rounded = np.zeros(values.shape, kind)
    scales, lows = np.zeros((2, len(values)), np.float32)
    of = round_layer(Dense(matrix, bias), rounded.dtype, lines=lines)
    given = np.zeros((len(values), matrix.shape[1]), out)
    kernels.round_rows(count, values, rounded, scales, lows)
    kernels.linear(count, rounded, scales, lows, of.packed, of.columns, bend, given)
    return given[:count]


@pytest.mark.parametrize("outputs", [48, 100])
@pytest.mark.parametrize(("kind", "error"), [("int16", 5e-4), ("uint8", 2e-2)])
def test_a_layer_is_near_what_float64_gives(kind: str, error: float, outputs: int):
    rng = np.random.default_rng(0)
    rows = rng.normal(0.3, 1, (13, WIDTH)).astype(np.float32)
    matrix = rng.normal(0, 1, (WIDTH, outputs)).astype(np.float32)
    bias = rng.normal(0, 1, outputs).astype(np.float32)
    exact = rows.astype(np.float64) @ matrix + bias
    flat = layer(rows, matrix, bias, kind, bend=False)
    assert np.abs(flat - exact).max() < error * np.abs(exact).max()
    gelu = exact / 2 * (1 + np.vectorize(math.erf)(exact / math.sqrt(2)))
    bent = layer(rows, matrix, bias, kind, bend=True)
    assert np.abs(bent - gelu).max() < error * np.abs(exact).max()


@pytest.mark.parametrize("kind", ["int16", "uint8"])
def test_the_largest_sums_do_not_overflow(kind: str):
    # By Cauchy–Schwarz no sum is larger than that of a vector with itself: flat, or all in one
    # place, or with the largest numbers that a row may hold.
    flat, peak, mixed = np.ones(WIDTH), np.eye(WIDTH)[5], np.linspace(-1, 3, WIDTH)
    rows = np.stack([flat, -flat, peak, -peak, mixed, -mixed]).astype(np.float32)
    matrix = np.concatenate([rows, np.zeros((42, WIDTH), np.float32)]).T
    out = layer(rows, matrix, np.zeros(48, np.float32), kind, bend=False)
    exact = rows.astype(np.float64) @ matrix
    assert np.abs(out - exact).max() < (1e-3 if kind == "int16" else 2e-2) * np.abs(exact).max()


def test_rows_of_zeros_and_of_one_number_are_kept():
    rows = np.stack([np.zeros(WIDTH), np.full(WIDTH, -2.5)]).astype(np.float32)
    matrix = np.eye(WIDTH, dtype=np.float32)
    for kind in ("int16", "uint8"):
        out = layer(rows, matrix, np.zeros(WIDTH, np.float32), kind, bend=False)
        assert np.abs(out - rows).max() < 1e-3


@pytest.mark.parametrize("length", [1, 7, 32, 45])
def test_attention_is_softmax_however_large_the_scores(length: int):
    heads, each, prompts = 2, 64, 3
    width, rows = heads * each, prompts * length
    parts = np.random.default_rng(length).normal(0, 2, (rows + 16, 3 * width)).astype(np.float32)
    mixed = np.zeros((rows + 16, width), np.float32)
    kernels.attend(length, prompts, heads, parts, mixed)
    shape = (prompts, length, 3, heads, each)
    queries, keys, values = parts[:rows].reshape(shape).transpose(2, 0, 3, 1, 4).astype(np.float64)
    scores = queries @ keys.swapaxes(-1, -2)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    exact = (shares / shares.sum(-1, keepdims=True)) @ values
    exact = exact.transpose(0, 2, 1, 3).reshape(rows, width)
    assert np.abs(mixed[:rows] - exact).max() < 1e-4


@pytest.mark.parametrize("length", [1, 7, 48, 50])
def test_attention_of_bytes_is_softmax_however_large_the_scores(length: int):
    heads, each, prompts = 2, 64, 3
    width, rows = heads * each, prompts * length
    rng = np.random.default_rng(length)
    parts = rng.integers(-128, 128, (rows + 16, 3 * width)).astype(np.int8)
    units = np.array([1e-3, 10], np.float32)
    mixed = np.zeros((rows + 16, width), np.uint8)
    kernels.attend_bytes(length, prompts, heads, parts, units, mixed)
    shape = (prompts, length, 3, heads, each)
    queries, keys, values = parts[:rows].reshape(shape).transpose(2, 0, 3, 1, 4).astype(np.float64)
    powers = queries @ keys.swapaxes(-1, -2) * units[:, None, None].astype(np.float64)
    shares = np.exp2(powers - powers.max(-1, keepdims=True))
    exact = (shares / shares.sum(-1, keepdims=True)) @ values
    exact = exact.transpose(0, 2, 1, 3).reshape(rows, width)
    # Shares are off by up to half of 1/255 of the greatest, and the result is rounded.
    assert np.abs(mixed[:rows].astype(np.float64) - 128 - exact).max() < 2


@pytest.mark.parametrize(("kind", "least"), [("int8", -128), ("uint8", 0)])
def test_what_a_layer_gives_in_bytes_is_rounded_and_cut(kind: str, least: int):
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 1, (13, WIDTH)).astype(np.float32)
    matrix = rng.normal(0, 6, (WIDTH, 100)).astype(np.float32)
    bias = rng.normal(0, 20, 100).astype(np.float32)
    lines = () if kind == "int8" else (np.full(100, 2.0), np.full(100, 0.35))
    exact = layer(rows, matrix, bias, "uint8", bend=kind == "uint8", lines=lines)
    exact = np.rint(exact * 2 + 0.35) if lines else np.rint(exact)
    given = layer(rows, matrix, bias, "uint8", bend=kind == "uint8", lines=lines, out=kind)
    held = np.clip(exact, least, least + 255)
    assert (held != exact).mean() > 0.05
    assert np.abs(given.astype(np.float64) - held).max() <= 1
    assert (given != held).mean() < 0.01


@pytest.fixture
def small_folder(model_folder: Path, tmp_path: Path) -> Path:
    """A model with random weights, of other sizes: two layers, 64 wide, 100 between."""
    folder = tmp_path / "small"
    shutil.copytree(model_folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((folder / "config.json").read_text())
    sizes = {"hidden_size": 64, "intermediate_size": 100, "num_attention_heads": 2}
    config |= sizes | {"num_hidden_layers": 2}
    (folder / "config.json").write_text(json.dumps(config))
    smaller = {WIDTH: 64, 4 * WIDTH: 100}
    rng = np.random.default_rng(0)
    weights = {}
    for name, array in load_file(model_folder / "model.safetensors").items():
        if not any(f"layer.{beyond}." in name for beyond in range(2, 6)):
            shape = [smaller.get(size, size) for size in array.shape]
            about = 1.0 if name.endswith("LayerNorm.weight") else 0.0
            weights[name] = rng.normal(about, 0.2, shape).astype(np.float32)
    save_file(weights, folder / "model.safetensors")
    return folder


def test_a_model_of_other_sizes(small_folder: Path, prompts: list[str]):
    exact = load_encoder(str(small_folder), "onnx", "fp32").encode(prompts)
    for precision, least in (("int16", 0.99999), ("int8", 0.99)):
        ours = load_encoder(str(small_folder), "numba", precision).encode(prompts)
        assert (exact * ours).sum(axis=1).min() > least


def test_a_model_whose_heads_do_not_fit_runs_on_onnx(small_folder: Path):
    config = json.loads((small_folder / "config.json").read_text()) | {"num_attention_heads": 4}
    (small_folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(EncoderError, match="multiple of 32 wide; take precision fp32"):
        load_encoder(str(small_folder), "numba")
    chosen = load_encoder(str(small_folder), precision="int8")
    assert (chosen.backend, chosen.precision) == ("onnx", "int8")


def test_missing_weights(own_folder: Path):
    config = json.loads((own_folder / "config.json").read_text()) | {"num_hidden_layers": 7}
    (own_folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(EncoderError, match=r"encoder\.layer\.6"):
        load_encoder(str(own_folder), "numba").encode(["a cat"])

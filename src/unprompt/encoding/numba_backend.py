"""An encoder's network on AVX512-VNNI, compiled by numba: near-exact int16, or fast int8.

Weights and what they multiply are rounded to 16 bits, each row and column by its own scale, and
multiplied exactly at twice the speed of float32; or to 8 bits, at four times. All else is float32.
The scale of a row depends on that row alone, unlike onnx's, which is one for a batch.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from unprompt.encoding.bert import is_supported, read_config
from unprompt.encoding.layout import EncoderError, Layout
from unprompt.encoding.safetensors_file import read_safetensors
from unprompt.parallel import cores

MAX_TOKENS = 512
"""Tokens in a batch: with more, numbers leave the core's cache (benchmarks/encoding.py)."""


def is_available(layout: Layout) -> bool:
    """Whether numba is installed, the processor has AVX512-VNNI, and the model runs here."""
    if find_spec("numba") is None:
        return False
    from unprompt.encoding.numba_tile import has_vnni

    return has_vnni() and is_supported(layout) and _fits(read_config(layout))


def _fits(config: Mapping[str, Any]) -> bool:
    """Whether tiles of 48 columns, heads of whole tiles and steps of 4 numbers make it up."""
    width, heads, wide = (
        config[key] for key in ("hidden_size", "num_attention_heads", "intermediate_size")
    )
    return min(width, wide) >= 48 and width % (32 * heads) == 0 and wide % 4 == 0


@dataclass(frozen=True)
class _Linear:
    packed: np.ndarray
    columns: np.ndarray


@dataclass(frozen=True)
class _Norm:
    scale: np.ndarray
    shift: np.ndarray


@dataclass(frozen=True)
class _Block:
    parts: _Linear
    mix: _Linear
    mix_norm: _Norm
    widen: _Linear
    narrow: _Linear
    narrow_norm: _Norm


class NumbaNetwork:
    """Token ids to pooled, not yet normalised embeddings.

    Args:
        layout: a model that `is_available` accepts.
        precision: ``int16`` or ``int8``.

    Raises:
        EncoderError: another kind of model, or damaged weights.
    """

    max_tokens = MAX_TOKENS

    def __init__(self, layout: Layout, precision: str):
        config = read_config(layout)
        weights = {
            name.removeprefix("bert."): array
            for name, array in read_safetensors(layout.weights).items()
        }
        self.workers = cores()
        self._pooling = layout.pooling
        self._heads = int(config["num_attention_heads"])
        self._wide = int(config["intermediate_size"])
        self._epsilon = np.float32(config["layer_norm_eps"])
        self._rounded = np.dtype(np.int16 if precision == "int16" else np.uint8)
        self._own = threading.local()
        try:
            types = weights["embeddings.token_type_embeddings.weight"]
            # A prompt is all of the first token type.
            self._positions = weights["embeddings.position_embeddings.weight"] + types[0]
            self._words = weights["embeddings.word_embeddings.weight"]
            self._norm = _norm(weights, "embeddings.")
            layers = range(config["num_hidden_layers"])
            self._blocks = [self._block(weights, f"encoder.layer.{layer}.") for layer in layers]
        except KeyError as error:
            raise EncoderError(
                f"{layout.weights_folder}: the config or the weights have no {error}; download "
                "the model again"
            ) from error

    def _block(self, weights: Mapping[str, np.ndarray], prefix: str) -> _Block:
        def linear(*layers: str) -> _Linear:
            matrices, biases = (
                [weights[f"{prefix}{layer}.{kind}"] for layer in layers]
                for kind in ("weight", "bias")
            )
            if len(layers) > 1:  # queries, which attention wants divided
                root = np.float32((len(biases[0]) / self._heads) ** 0.5)
                matrices[0], biases[0] = matrices[0] / root, biases[0] / root
            return round_layer(np.concatenate(matrices).T, np.concatenate(biases), self._rounded)

        return _Block(
            parts=linear(*(f"attention.self.{part}" for part in ("query", "key", "value"))),
            mix=linear("attention.output.dense"),
            mix_norm=_norm(weights, f"{prefix}attention.output."),
            widen=linear("intermediate.dense"),
            narrow=linear("output.dense"),
            narrow_norm=_norm(weights, f"{prefix}output."),
        )

    def __call__(self, ids: np.ndarray) -> np.ndarray:
        """Token ids, int64 of shape (n, length), to float32 of shape (n, dim)."""
        from unprompt.encoding.numba_kernels import (
            add_and_normalise,
            attend,
            embed,
            linear,
            round_rows,
        )

        prompts, length = ids.shape
        tokens, room = ids.size, self._room(ids.size)
        hidden, parts, mixed, wide = room.hidden, room.parts, room.mixed, room.wide
        near, near_wide = room.rounded, room.rounded_wide
        scaling = room.scales, room.lows
        norm, epsilon = self._norm, self._epsilon
        embed(
            ids, self._words, self._positions, norm.scale, norm.shift, epsilon, hidden, near,
            *scaling,
        )  # fmt: skip

        def layer(of: _Linear, rounded: np.ndarray, out: np.ndarray, bend: bool = False) -> None:
            linear(tokens, rounded, *scaling, of.packed, of.columns, bend, out)

        def add(norm: _Norm) -> None:
            add_and_normalise(
                tokens, hidden, mixed, norm.scale, norm.shift, epsilon, near, *scaling
            )

        for block in self._blocks:
            layer(block.parts, near, parts)
            attend(length, prompts, self._heads, parts, mixed)
            round_rows(tokens, mixed, near, *scaling)
            layer(block.mix, near, mixed)
            add(block.mix_norm)
            layer(block.widen, near, wide, bend=True)
            round_rows(tokens, wide, near_wide, *scaling)
            layer(block.narrow, near_wide, mixed)
            add(block.narrow_norm)
        vectors = hidden[:tokens].reshape(prompts, length, -1)
        return np.array(vectors[:, 0]) if self._pooling == "cls" else vectors.mean(axis=1)

    def _room(self, tokens: int) -> _Room:
        """This thread's arrays, which the system need not clear for each batch."""
        held: _Room | None = getattr(self._own, "room", None)
        if held is None or len(held.hidden) < tokens + _SPARE:
            width = self._words.shape[1]
            held = _Room.of(tokens + _SPARE, width, self._wide, self._rounded)
            self._own.room = held
        return held


_SPARE = 16
"""Rows behind the last token, which tiles may read and write."""


@dataclass(frozen=True)
class _Room:
    hidden: np.ndarray
    parts: np.ndarray
    mixed: np.ndarray
    wide: np.ndarray
    rounded: np.ndarray
    rounded_wide: np.ndarray
    scales: np.ndarray
    lows: np.ndarray

    @classmethod
    def of(cls, rows: int, width: int, wide: int, rounded: np.dtype) -> _Room:
        return cls(
            hidden=np.zeros((rows, width), np.float32),
            parts=np.zeros((rows, 3 * width), np.float32),
            mixed=np.zeros((rows, width), np.float32),
            wide=np.zeros((rows, wide), np.float32),
            rounded=np.zeros((rows, width), rounded),
            rounded_wide=np.zeros((rows, wide), rounded),
            scales=np.zeros(rows, np.float32),
            lows=np.zeros(rows, np.float32),
        )


def _norm(weights: Mapping[str, np.ndarray], prefix: str) -> _Norm:
    return _Norm(*(weights[f"{prefix}LayerNorm.{part}"] for part in ("weight", "bias")))


def round_layer(matrix: np.ndarray, bias: np.ndarray, rounded: np.dtype) -> _Linear:
    """Round a matrix of shape (inputs, outputs) by columns, for rows of a type."""
    from unprompt.encoding.numba_kernels import OTHER_NORM
    from unprompt.encoding.numba_tile import COLUMNS, pack, tile_starts

    peaks = np.maximum(np.abs(matrix).max(axis=0), np.finfo(np.float32).tiny)
    if rounded == np.int16:
        units = np.maximum(np.linalg.norm(matrix, axis=0) / OTHER_NORM, peaks / 32_767)
    else:
        units = peaks / 127
    units = units.astype(np.float32)
    integers = np.rint(matrix / units).astype(np.int16 if rounded == np.int16 else np.int8)
    sums = integers.sum(axis=0, dtype=np.int64) * units
    lines = np.stack([units, sums, bias]).astype(np.float32)
    tiles = [lines[:, first : first + COLUMNS] for first in tile_starts(len(bias))]
    return _Linear(pack(integers), np.ascontiguousarray(np.stack(tiles)))

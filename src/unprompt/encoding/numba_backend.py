"""An encoder's network on AVX512-VNNI, compiled by numba: near-exact int16, or fast int8.

Weights and what they multiply are rounded to 16 bits, each row and column by its own scale, and
multiplied exactly at twice the speed of float32; all else is float32. Or they are rounded to 8
bits, at four times the speed, and attention is too (`numba_weights`). No scale depends on other
prompts, unlike onnx's, which is one for a batch.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from unprompt.encoding.bert import is_supported, read_config
from unprompt.encoding.encoder_config import EncoderError, Layout
from unprompt.encoding.safetensors_file import read_safetensors
from unprompt.parallel import cores

if TYPE_CHECKING:
    from unprompt.encoding.numba_weights import Linear, Norm

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
        from unprompt.encoding.numba_weights import read_block, read_norm

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
            self._norm = read_norm(weights, "embeddings.")
            self._blocks = [
                read_block(weights, number, self._heads, self._rounded)
                for number in range(config["num_hidden_layers"])
            ]
        except KeyError as error:
            raise EncoderError(
                f"{layout.weights_folder}: the config or the weights have no {error}; download "
                "the model again"
            ) from error

    def __call__(self, ids: np.ndarray) -> np.ndarray:
        """Token ids, int64 of shape (n, length), to float32 of shape (n, dim)."""
        from unprompt.encoding.numba_kernels import (
            add_and_normalise,
            attend,
            attend_bytes,
            embed,
            linear,
            round_rows,
        )

        prompts, length = ids.shape
        tokens, room = ids.size, self._room(ids.size)
        hidden, parts, mixed, wide = room.hidden, room.parts, room.mixed, room.wide
        near, near_wide = room.rounded, room.rounded_wide
        scaling, fixed = (room.scales, room.lows), (room.ones, room.zeros)
        exact = self._rounded == np.int16
        behind = scaling if exact else fixed
        norm, epsilon = self._norm, self._epsilon
        embed(
            ids, self._words, self._positions, norm.scale, norm.shift, epsilon, hidden, near,
            *scaling,
        )  # fmt: skip

        def layer(
            of: Linear,
            rounded: np.ndarray,
            scaling: tuple[np.ndarray, np.ndarray],
            out: np.ndarray,
            bend: bool = False,
        ) -> None:
            linear(tokens, rounded, *scaling, of.packed, of.columns, bend, out)

        def add(norm: Norm) -> None:
            add_and_normalise(
                tokens, hidden, mixed, norm.scale, norm.shift, epsilon, near, *scaling
            )

        for block in self._blocks:
            layer(block.parts, near, scaling, parts)
            if exact:
                attend(length, prompts, self._heads, parts, mixed)
                round_rows(tokens, mixed, near, *scaling)
            else:
                attend_bytes(length, prompts, self._heads, parts, block.units, near)
            layer(block.mix, near, behind, mixed)
            add(block.mix_norm)
            layer(block.widen, near, scaling, wide, bend=True)
            if exact:
                round_rows(tokens, wide, near_wide, *scaling)
            layer(block.narrow, near_wide, behind, mixed)
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
    ones: np.ndarray
    zeros: np.ndarray

    @classmethod
    def of(cls, rows: int, width: int, wide: int, rounded: np.dtype) -> _Room:
        exact = rounded == np.int16
        rounded_wide = np.zeros((rows, wide), rounded)
        return cls(
            hidden=np.zeros((rows, width), np.float32),
            parts=np.zeros((rows, 3 * width), np.float32 if exact else np.int8),
            mixed=np.zeros((rows, width), np.float32),
            wide=np.zeros((rows, wide), np.float32) if exact else rounded_wide,
            rounded=np.zeros((rows, width), rounded),
            rounded_wide=rounded_wide,
            scales=np.zeros(rows, np.float32),
            lows=np.zeros(rows, np.float32),
            ones=np.ones(rows, np.float32),
            zeros=np.zeros(rows, np.float32),
        )

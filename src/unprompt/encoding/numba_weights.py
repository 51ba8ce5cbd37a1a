"""A BERT's weights, rounded as the kernels of the numba backend take them.

In int16 each row of what a layer multiplies has a scale of its own. In int8 only what layer norms
give has; queries, keys, values, their mixtures and what GELU gives are rounded in the registers
that they are computed in, by scales known before. Those follow from the weights alone, without
prompts to measure ranges on: behind a layer norm, numbers have the norm's shift for a mean and its
scale for a standard deviation, and a linear layer's outputs the mean and deviation that these make
of numbers that are independent. Ranges measured on 64 prompts are no better
(benchmarks/RESULTS.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unprompt.encoding.numba_code import COLUMNS, GELU_LEAST
from unprompt.encoding.numba_kernels import OTHER_NORM
from unprompt.encoding.numba_tile import pack, tile_starts

_ATTENTION_DEVIATIONS = 5
"""Standard deviations beside the mean at which queries, keys and values are cut in int8."""

_WIDE_DEVIATIONS = 10
"""The same of what goes into GELU, whose few large numbers matter."""

_LEAST_END = 0.05
_TINY = 1e-30


@dataclass(frozen=True)
class Dense:
    """A linear layer as it was trained: float32 of shape (inputs, outputs), and (outputs,)."""

    matrix: np.ndarray
    bias: np.ndarray

    @classmethod
    def read(cls, weights: Mapping[str, np.ndarray], name: str) -> Dense:
        """The layer of a name among a model's tensors."""
        return cls(weights[f"{name}.weight"].T, weights[f"{name}.bias"])

    def times(self, factors: np.ndarray | float) -> Dense:
        """The layer whose outputs are so many times as large."""
        of_outputs = np.asarray(factors, np.float32)
        return Dense(self.matrix * of_outputs, self.bias * of_outputs)

    def of(self, units: np.ndarray) -> Dense:
        """The layer whose inputs come in other units."""
        return Dense(self.matrix * units[:, None].astype(np.float32), self.bias)

    def beside(self, *others: Dense) -> Dense:
        """One layer of the outputs of several."""
        layers = (self, *others)
        return Dense(
            np.concatenate([layer.matrix for layer in layers], axis=1),
            np.concatenate([layer.bias for layer in layers]),
        )

    def behind(self, norm: Norm) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each output, behind a layer norm."""
        mean = norm.shift @ self.matrix + self.bias
        return mean, np.linalg.norm(norm.scale[:, None] * self.matrix, axis=0)


@dataclass(frozen=True)
class Linear:
    """A linear layer: `numba_tile.pack`'s matrix, and columns as in `numba_kernels.linear`."""

    packed: np.ndarray
    columns: np.ndarray


@dataclass(frozen=True)
class Norm:
    """A layer norm: float32 of shape (width,) each."""

    scale: np.ndarray
    shift: np.ndarray


@dataclass(frozen=True)
class Block:
    """One of an encoder's blocks.

    Attributes:
        parts: queries, keys and values beside each other.
        units: as in `numba_kernels.attend_bytes`, which int8 is for.
        mix: attention's output.
        mix_norm: the norm behind it.
        widen: the layer before GELU.
        narrow: the layer after it.
        narrow_norm: the norm behind it.
    """

    parts: Linear
    units: np.ndarray
    mix: Linear
    mix_norm: Norm
    widen: Linear
    narrow: Linear
    narrow_norm: Norm


def read_norm(weights: Mapping[str, np.ndarray], prefix: str) -> Norm:
    """The layer norm at a prefix.

    Raises:
        KeyError: it is not among the weights.
    """
    return Norm(*(weights[f"{prefix}LayerNorm.{part}"] for part in ("weight", "bias")))


def read_block(
    weights: Mapping[str, np.ndarray], number: int, heads: int, rounded: np.dtype
) -> Block:
    """Round one of a BERT's blocks.

    Args:
        weights: the model's tensors by name, without a prefix ``bert.``.
        number: which block.
        heads: heads of attention.
        rounded: type of what layers multiply, int16 or uint8.

    Raises:
        KeyError: a tensor is not among the weights.
    """
    prefix = f"encoder.layer.{number}."
    names = [f"attention.self.{part}" for part in ("query", "key", "value")]
    names += [f"{part}.dense" for part in ("attention.output", "intermediate", "output")]
    query, key, value, mix, widen, narrow = (Dense.read(weights, prefix + name) for name in names)
    query = query.times(1 / math.sqrt(len(query.bias) / heads))
    mix_norm = read_norm(weights, f"{prefix}attention.output.")
    narrow_norm = read_norm(weights, f"{prefix}output.")
    if rounded == np.int16:
        layers = (query.beside(key, value), mix, widen, narrow)
        of_parts, of_mix, of_wide, of_narrow = (round_layer(layer, rounded) for layer in layers)
        units = np.ones(heads, np.float32)
    else:
        before = f"encoder.layer.{number - 1}.output." if number else "embeddings."
        norm = read_norm(weights, before)
        of_parts, units, of_mix = _attention_in_bytes(query, key, value, mix, norm, heads)
        of_wide, of_narrow = _feed_forward_in_bytes(widen, narrow, mix_norm)
    return Block(of_parts, units, of_mix, mix_norm, of_wide, of_narrow, narrow_norm)


def _attention_in_bytes(
    query: Dense, key: Dense, value: Dense, mix: Dense, norm: Norm, heads: int
) -> tuple[Linear, np.ndarray, Linear]:
    """Attention's layers behind a norm, and what 1 in a head's score adds to the power of 2."""
    # Keys' bias adds the same to all scores of a query, so softmax does not see it.
    key = Dense(key.matrix, np.zeros_like(key.bias))
    units = np.full(heads, math.log2(math.e), np.float32)
    parts = []
    for part in (query, key):
        peaks = _peaks(part, norm).reshape(heads, -1)
        unit = peaks.max(axis=1) / 127
        units *= unit
        parts.append(part.times(1 / np.repeat(unit, peaks.shape[1])))
    value_units = _peaks(value, norm) / 127
    parts.append(value.times(1 / value_units))
    lows = np.full(len(value_units), -128)
    of_parts = round_layer(parts[0].beside(*parts[1:]), np.dtype(np.uint8))
    return of_parts, units, round_layer(mix.of(value_units), np.dtype(np.uint8), lows)


def _peaks(dense: Dense, norm: Norm) -> np.ndarray:
    """About the greatest size of each output behind a layer norm."""
    mean, deviation = dense.behind(norm)
    return np.maximum(np.abs(mean) + _ATTENTION_DEVIATIONS * deviation, _TINY)


def _feed_forward_in_bytes(widen: Dense, narrow: Dense, norm: Norm) -> tuple[Linear, Linear]:
    """The layers before GELU, behind a norm, and after it."""
    mean, deviation = widen.behind(norm)
    ends = np.maximum(mean + _WIDE_DEVIATIONS * deviation, _LEAST_END)
    units = (ends - GELU_LEAST) / 255
    lows = GELU_LEAST / units
    return (
        round_layer(widen, np.dtype(np.uint8), lines=(1 / units, -lows)),
        round_layer(narrow.of(units), np.dtype(np.uint8), lows),
    )


def round_layer(
    dense: Dense,
    rounded: np.dtype,
    lows: np.ndarray | None = None,
    lines: Sequence[np.ndarray] = (),
) -> Linear:
    """Round a layer's matrix by columns, for rows of a type.

    Args:
        dense: the layer.
        rounded: the type, int16 or uint8.
        lows: of shape (inputs,), what is to be added to each input.
        lines: further lines of the columns, of shape (outputs,).
    """
    matrix, bias = dense.matrix, dense.bias
    peaks = np.maximum(np.abs(matrix).max(axis=0), _TINY)
    if rounded == np.int16:
        units = np.maximum(np.linalg.norm(matrix, axis=0) / OTHER_NORM, peaks / 32_767)
    else:
        units = peaks / 127
    units = units.astype(np.float32)
    integers = np.rint(matrix / units).astype(np.int16 if rounded == np.int16 else np.int8)
    sums = integers.sum(axis=0, dtype=np.int64) * units
    if lows is not None:
        bias = bias + (lows @ integers) * units
    columns = np.stack([units, sums, bias, *lines]).astype(np.float32)
    tiles = [columns[:, first : first + COLUMNS] for first in tile_starts(len(bias))]
    return Linear(pack(integers), np.ascontiguousarray(np.stack(tiles)))

"""What an encoder computes, compiled by numba: linear layers, attention and layer norms.

Rows are tokens, and arrays have more of them than there are tokens, so that tiles may run over the
end; what they leave there is never read. A row's numbers come from that row alone, and
attention's from its own prompt: to the last bit, a prompt's embedding is the same whatever else
is in its batch.
"""

from __future__ import annotations

import numba
import numpy as np

from unprompt.encoding.numba_bytes import mix_bytes, soften_bytes
from unprompt.encoding.numba_code import COLUMNS, FLOAT_COLUMNS, ROWS
from unprompt.encoding.numba_tile import (
    bits_of_float,
    float_of_bits,
    gelu_tile,
    linear_tile,
    multiply_tile,
    soften,
    take_whole_registers,
)

_TILES = 3
"""To be raised with every change to what makes tiles: numba's cache looks at this file alone."""

FAST = {"reassoc", "contract", "nsz", "arcp", "nnan"}
"""Sums may be taken in any order, so that they fill registers, and nothing is NaN."""

_compiled = numba.njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
_inlined = numba.njit(fastmath=FAST, error_model="numpy", inline="always")

NORM = np.float32(32_700)
"""Norm of a row of int16, and so the most that a number in it can be."""

OTHER_NORM = 65_600
"""Norm that a column of int16 may have: by Cauchy–Schwarz no sum then reaches 2³¹."""

# Plain numbers would make float64 of everything that they meet.
_ONE, _HALF, _TINY = np.float32(1), np.float32(0.5), np.float32(1e-30)
_SHIFT = np.float32(32768.5)
_LEVELS = np.float32(255)
_SIGNS = np.int32(-0x7F7F7F80)  # 0x80 in every byte: they make uint8 of int8, plus 128
_ONES = np.int32(0x01010101)


@_inlined
def _key(value: np.float32) -> np.int32:
    """An integer in the order of float32: LLVM finds extremes of those in whole registers."""
    bits = bits_of_float(value)
    return bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))


@_inlined
def _value(key: np.int32) -> np.float32:
    return float_of_bits(key ^ ((key >> 31) & np.int32(0x7FFFFFFF)))


@_inlined
def _round(values: np.ndarray, rounded: np.ndarray) -> tuple[np.float32, np.float32]:
    """Round numbers to int16 about zero, or to uint8 between the least and the greatest.

    Returns:
        Scale and low: ``rounded * scale + low`` is near ``values``.
    """
    if rounded.itemsize == 2:
        squares = _TINY
        for i in range(len(values)):
            squares += values[i] * values[i]
        inverse = NORM / np.sqrt(squares)
        for i in range(len(values)):
            # Conversion cuts off, so it is done above zero.
            rounded[i] = np.int16(np.int32(values[i] * inverse + _SHIFT) - np.int32(32768))
        return _ONE / inverse, np.float32(0)
    least = most = _key(values[0])
    for i in range(len(values)):
        key = _key(values[i])
        least, most = min(least, key), max(most, key)
    low = _value(least)
    inverse = _LEVELS / max(_value(most) - low, _TINY)
    for i in range(len(values)):
        rounded[i] = np.uint8(np.int32((values[i] - low) * inverse + _HALF))
    return _ONE / inverse, low


@_inlined
def normalise(
    values: np.ndarray, scale: np.ndarray, shift: np.ndarray, epsilon: np.float32
) -> None:
    """A layer norm of one row, in place; for compiled code."""
    width = np.float32(len(values))
    total = np.float32(0)
    for i in range(len(values)):
        total += values[i]
    mean = total / width
    squares = np.float32(0)
    for i in range(len(values)):
        squares += (values[i] - mean) * (values[i] - mean)
    inverse = _ONE / np.sqrt(squares / width + epsilon)
    for i in range(len(values)):
        values[i] = (values[i] - mean) * inverse * scale[i] + shift[i]


@_compiled
def embed(
    ids: np.ndarray,
    words: np.ndarray,
    positions: np.ndarray,
    scale: np.ndarray,
    shift: np.ndarray,
    epsilon: np.float32,
    hidden: np.ndarray,
    rounded: np.ndarray,
    scales: np.ndarray,
    lows: np.ndarray,
) -> None:
    """Word and position of each token, normalised, into ``hidden``; and rounded.

    Args:
        ids: int64 of shape (n, length).
        words: float32 of shape (vocabulary, width).
        positions: float32 of shape (at least length, width).
        scale: of the layer norm, float32 of shape (width,).
        shift: likewise.
        epsilon: likewise, a number.
        hidden: float32 of shape (rows, width).
        rounded: int16 or uint8, as ``hidden``.
        scales: float32 of shape (rows,), what a unit of ``rounded`` is.
        lows: float32 of shape (rows,), what its zero is.
    """
    take_whole_registers()
    length = ids.shape[1]
    for row in range(ids.size):
        place = row % length
        line, word, position = hidden[row], words[ids[row // length, place]], positions[place]
        for i in range(len(line)):
            line[i] = word[i] + position[i]
        normalise(line, scale, shift, epsilon)
        scales[row], lows[row] = _round(line, rounded[row])


@_compiled
def add_and_normalise(
    count: int,
    hidden: np.ndarray,
    added: np.ndarray,
    scale: np.ndarray,
    shift: np.ndarray,
    epsilon: np.float32,
    rounded: np.ndarray,
    scales: np.ndarray,
    lows: np.ndarray,
) -> None:
    """``hidden + added``, normalised, into ``hidden``; and rounded. All as in `embed`."""
    take_whole_registers()
    for row in range(count):
        line, more = hidden[row], added[row]
        for i in range(len(line)):
            line[i] += more[i]
        normalise(line, scale, shift, epsilon)
        scales[row], lows[row] = _round(line, rounded[row])


@_compiled
def round_rows(
    count: int, values: np.ndarray, rounded: np.ndarray, scales: np.ndarray, lows: np.ndarray
) -> None:
    """Round rows, as in `embed`."""
    take_whole_registers()
    for row in range(count):
        scales[row], lows[row] = _round(values[row], rounded[row])


@_compiled
def linear(
    count: int,
    rounded: np.ndarray,
    scales: np.ndarray,
    lows: np.ndarray,
    packed: np.ndarray,
    columns: np.ndarray,
    bend: bool,
    out: np.ndarray,
) -> None:
    """A linear layer of rounded rows, GELU after it if wanted, and rounding if wanted.

    Args:
        count: rows that matter.
        rounded: int16 or uint8 of shape (rows, inputs).
        scales: as in `embed`.
        lows: as in `embed`.
        packed: int16 or int8, from `numba_tile.pack`.
        columns: float32 of shape (tiles, 3 or 5, `numba_code.COLUMNS`): what a unit of each
            column of ``packed`` is, the column's sum times its unit, and the bias; for uint8, what
            the output is then multiplied by and what is added.
        bend: whether GELU follows.
        out: float32 of shape (rows, outputs); or int8 or uint8, which what comes out is rounded
            to, and cut to if it is too large.
    """
    tiles, steps = packed.shape[0], packed.shape[1]
    stride, out_stride = rounded.shape[1] * rounded.itemsize, out.shape[1] * out.itemsize
    for tile in range(tiles):
        first = min(tile * COLUMNS, out.shape[1] - COLUMNS)
        right, column = tile * steps * 4 * COLUMNS, tile * columns.shape[1] * 4 * COLUMNS
        for top in range(0, count, ROWS):
            left, place = top * stride, top * out_stride + first * out.itemsize
            starts = (left, right, column, 4 * top, place)
            if bend:
                gelu_tile(
                    rounded, packed, columns, scales, lows, out, starts, stride, out_stride, steps
                )
            else:
                linear_tile(
                    rounded, packed, columns, scales, lows, out, starts, stride, out_stride, steps
                )


@_compiled
def attend(length: int, prompts: int, heads: int, parts: np.ndarray, mixed: np.ndarray) -> None:
    """Attention of each prompt to itself, in float32.

    Args:
        length: tokens of each prompt.
        prompts: their number.
        heads: heads of attention, whose width is a multiple of `numba_code.FLOAT_COLUMNS`.
        parts: float32 of shape (rows, 3 * width): queries, divided by the root of a head's
            width, keys and values.
        mixed: float32 of shape (rows, width), the result.
    """
    width = mixed.shape[1]
    each = width // heads
    room = -(-length // FLOAT_COLUMNS) * FLOAT_COLUMNS
    stride, room_stride = 12 * width, 4 * room
    keys = np.zeros((each, room), np.float32)
    scores = np.empty((ROWS, room), np.float32)
    for prompt in range(prompts):
        top = prompt * length
        for at in range(0, width, each):
            for token in range(length):
                line = parts[top + token, width + at : width + at + each]
                for i in range(each):
                    keys[i, token] = line[i]
            for block in range(top, top + length, ROWS):
                for first in range(0, 4 * room, 4 * FLOAT_COLUMNS):
                    starts = (block * stride + 4 * at, first, first)
                    strides = (stride, room_stride, room_stride)
                    multiply_tile(parts, keys, scores, starts, strides, each)
                for row in range(ROWS):
                    soften(scores, row * room_stride, length)
                for first in range(at, at + each, FLOAT_COLUMNS):
                    values = top * stride + 4 * (2 * width + first)
                    starts = (0, values, 4 * (block * width + first))
                    strides = (room_stride, stride, 4 * width)
                    multiply_tile(scores, parts, mixed, starts, strides, length)


@_compiled
def attend_bytes(
    length: int, prompts: int, heads: int, parts: np.ndarray, units: np.ndarray, mixed: np.ndarray
) -> None:
    """Attention of each prompt to itself, of int8.

    Args:
        length: tokens of each prompt.
        prompts: their number.
        heads: heads of attention, whose width is a multiple of `numba_code.FLOAT_COLUMNS`.
        parts: int8 of shape (rows, 3 * width): queries, keys and values.
        units: float32 of shape (heads,): what 1 times 1 in a score adds to the power of 2.
        mixed: uint8 of shape (rows, width), the result: the values mixed, plus 128.
    """
    take_whole_registers()
    width = mixed.shape[1]
    each = width // heads
    room = -(-length // COLUMNS) * COLUMNS
    stride, room_stride, steps = 3 * width, 4 * room, -(-length // 4)
    words = parts.view(np.int32)
    keys = np.zeros((each // 4, room), np.int32)
    values = np.full((each // FLOAT_COLUMNS, steps, COLUMNS), _ONES)
    scores = np.empty((ROWS, room), np.int32)
    shares = np.empty((ROWS, room), np.uint8)
    for prompt in range(prompts):
        top = prompt * length
        for head in range(heads):
            at = head * each
            for token in range(length):
                line = words[top + token, (width + at) // 4 : (width + at + each) // 4]
                for i in range(each // 4):
                    keys[i, token] = line[i] ^ _SIGNS
            for part in range(each // FLOAT_COLUMNS):
                first = 2 * width + at + part * FLOAT_COLUMNS
                for step in range(steps):
                    four = parts[top + 4 * step : top + 4 * step + 4, first : first + FLOAT_COLUMNS]
                    line = values[part, step]
                    for i in range(FLOAT_COLUMNS):
                        low = np.int32(np.uint8(four[0, i])) | np.int32(np.uint8(four[1, i])) << 8
                        high = np.int32(np.uint8(four[2, i])) | np.int32(four[3, i]) << 8
                        line[i] = low | high << 16
            for block in range(top, top + length, ROWS):
                for place in range(0, room_stride, 4 * COLUMNS):
                    starts = (block * stride + at, place, place)
                    strides = (stride, room_stride, room_stride)
                    multiply_tile(parts, keys, scores, starts, strides, each // 4)
                for row in range(ROWS):
                    soften_bytes(scores, shares, row * room, length, units[head])
                for part in range(each // FLOAT_COLUMNS):
                    starts = (
                        0,
                        part * steps * 4 * COLUMNS,
                        block * width + at + part * FLOAT_COLUMNS,
                    )
                    strides = (room, 4 * COLUMNS, width)
                    mix_bytes(shares, values, mixed, starts, strides, steps)

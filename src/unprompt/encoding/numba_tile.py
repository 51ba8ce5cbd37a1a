"""Products of small tiles in the processor's vector registers, for numba code.

Each step takes four bytes of every row of the left side, spreads them over a whole register,
multiplies by registers of the right side and adds up in registers. What the four bytes hold is all
that differs: one float32 (``vfmadd``), two int16 (``vpdpwssd``), or four uint8 on one side and int8
on the other (``vpdpbusd``). The last two belong to AVX512-VNNI and add to int32 without saturation
(Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2). No open library on PyPI
multiplies int16, and those that multiply int8 are a fifth slower here (benchmarks/RESULTS.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic as _intrinsic

from unprompt.encoding.numba_code import (
    COLUMNS,
    FLOAT,
    FLOATS,
    INTEGERS,
    LANES,
    OFFSET,
    REGISTER,
    ROWS,
    WORD,
    Code,
)

# Typed loosely: numba's own type has the context as a parameter of the call.
intrinsic: Any = _intrinsic


def has_vnni() -> bool:
    """Whether this processor has AVX512-VNNI, and the system lets programs use it."""
    return bool(binding.get_host_cpu_features().get("avx512vnni"))


def pack(matrix: np.ndarray) -> np.ndarray:
    """Lay out a matrix as the right sides of tiles of integers.

    Args:
        matrix: int16 or int8 of shape (inputs, outputs), of which ``inputs`` fill whole steps and
            ``outputs`` at least one tile.

    Returns:
        Shape (tiles, steps, `COLUMNS`, inputs a step). The last tile starts where it ends with
        the matrix, so it may hold columns of the one before once more.
    """
    inputs, outputs = matrix.shape
    each = 4 // matrix.itemsize
    steps = matrix.reshape(inputs // each, each, outputs).transpose(0, 2, 1)
    tiles = [steps[:, first : first + COLUMNS] for first in tile_starts(outputs)]
    return np.ascontiguousarray(np.stack(tiles))  # stacked in the memory order of its parts


def tile_starts(outputs: int) -> list[int]:
    """The first column of each tile."""
    return [min(first, outputs - COLUMNS) for first in range(0, outputs, COLUMNS)]


def addresses(
    context: Any, builder: ir.IRBuilder, arrays: Sequence[Any], values: Any, starts: Any
) -> list[Any]:
    """Where arrays, given by their types and as values, are in memory, plus starts in bytes."""
    return [
        builder.add(
            builder.ptrtoint(context.make_array(kind)(context, builder, value).data, OFFSET),
            start,
        )
        for kind, value, start in zip(arrays, values, starts, strict=True)
    ]


def _make_multiply_tile(rows: int, ahead: int = 0) -> Any:
    @intrinsic
    def multiply_tile(
        _context: Any,
        left: Any,
        right: Any,
        out: Any,
        _starts: Any,
        _strides: Any,
        _steps: Any,
    ) -> Any:
        """Multiply a tile: ``out = left @ right``.

        Starts are offsets into the three arrays, strides are distances between their rows, all in
        bytes, and nothing is checked. As many rows as the tile has, of ``steps`` numbers, are read
        on the left, ``steps`` rows of `FLOAT_COLUMNS` on the right, and the tile is written. All
        are float32; or ``left`` is int8, four a step, ``right`` holds as many uint8 in each int32,
        of which `COLUMNS` make a row, and ``out`` is int32.
        """
        arrays = (left, right, out)

        def generate(context: Any, builder: ir.IRBuilder, _signature: Any, values: Any) -> Any:
            code = Code(builder)
            begins, distances = (cgutils.unpack_tuple(builder, value, 3) for value in values[3:5])
            places = addresses(context, builder, arrays, values[:3], begins)
            sums = code.sums(left.dtype, places[:2], distances[:2], values[5], rows, ahead)
            for row, parts in enumerate(sums):
                start = builder.add(places[2], builder.mul(distances[2], code.constant(row)))
                for i, part in enumerate(parts):
                    code.store(part, start, code.constant(REGISTER * i))
            return context.get_dummy_value()

        threes = types.UniTuple(types.int64, 3)
        return types.void(*arrays, threes, threes, types.int64), generate

    return multiply_tile


multiply_tile = _make_multiply_tile(ROWS)
stream_eight, stream_four, stream_one = (_make_multiply_tile(rows, 4096) for rows in (8, 4, 1))
"""As `multiply_tile` for 8, 4 and 1 rows, where the right side comes from memory in one stream.

It is fetched a page ahead: where few rows share it, that takes 15 to 20 % off the time.
"""


@intrinsic
def soften(_context: Any, scores: Any, _start: Any, _length: Any) -> Any:
    """Turn a row of scores into shares, by softmax.

    Args:
        scores: float32, filled up to whole registers.
        start: where the row starts, in bytes.
        length: how many scores there are; what fills up becomes nothing.
    """

    def generate(context: Any, builder: ir.IRBuilder, _signature: Any, values: Any) -> Any:
        code = Code(builder)
        (start,) = addresses(context, builder, [scores], values[:1], values[1:2])
        length = builder.trunc(values[2], WORD)
        lanes = code.constant(LANES)
        count = builder.sdiv(builder.add(values[2], code.constant(LANES - 1)), lanes)
        order = ir.Constant(INTEGERS, list(range(LANES)))
        least = code.everywhere(-1e30)

        def find_peak(place: Any, value: Any, peak: Any) -> tuple[Any, Any]:
            first = builder.trunc(builder.mul(place, lanes), WORD)
            index = builder.add(code.spread(first), order)
            value = builder.select(
                builder.icmp_signed("<", index, code.spread(length)), value, least
            )
            return value, code.call("llvm.maxnum.v16f32", peak, value)

        peaks = code.each(start, count, least, find_peak)
        peak = code.spread(code.reduce("fmax", [peaks]))

        def raise_to(_place: Any, value: Any, total: Any) -> tuple[Any, Any]:
            value = code.exp(builder.fsub(value, peak))
            return value, builder.fadd(total, value)

        totals = code.each(start, count, code.everywhere(0), raise_to)
        total = code.reduce("fadd", [ir.Constant(FLOAT, 0), totals])
        inverse = code.spread(builder.fdiv(ir.Constant(FLOAT, 1), total))
        code.each(
            start, count, least, lambda _place, value, held: (builder.fmul(value, inverse), held)
        )
        return context.get_dummy_value()

    return types.void(scores, types.int64, types.int64), generate


def _make_linear_tile(bend: bool) -> Any:
    @intrinsic
    def linear_tile(
        _context: Any,
        rounded: Any,
        packed: Any,
        columns: Any,
        scales: Any,
        lows: Any,
        out: Any,
        _starts: Any,
        _rounded_stride: Any,
        _out_stride: Any,
        _steps: Any,
    ) -> Any:
        """One tile of a linear layer of rounded rows, as float32 or rounded again.

        The starts are those of ``rounded``, ``packed``, ``columns``, both of ``scales`` and
        ``lows``, and ``out``, in bytes as the strides are. What is computed is
        ``product * scale * unit + low * sum + bias``, where scale and low are the row's, and unit,
        sum and bias the column's: three registers of each, one after the other, in ``columns``.
        Where ``out`` is int8, that is rounded; where it is uint8, it is times a fourth number of
        the column plus a fifth, both of which ``columns`` then holds too.
        """
        arrays = (rounded, packed, columns, scales, lows, out)
        whole = out.dtype == types.float32

        def generate(context: Any, builder: ir.IRBuilder, _signature: Any, values: Any) -> Any:
            code = Code(builder)
            begins = cgutils.unpack_tuple(builder, values[6], 5)
            left, right, column, scale, low, place = addresses(
                context, builder, arrays, values[:6], [*begins[:4], *begins[3:]]
            )
            stride, out_stride, steps = values[7:]
            strides = (stride, code.constant(4 * COLUMNS))
            sums = code.sums(rounded.dtype, (left, right), strides, steps)
            for row, parts in enumerate(sums):
                here = code.constant(4 * row)
                scale_here = code.spread(code.load(scale, here, FLOAT))
                low_here = code.spread(code.load(low, here, FLOAT))
                start = builder.add(place, builder.mul(out_stride, code.constant(row)))
                for i, part in enumerate(parts):
                    of_column = [
                        code.load(column, code.constant(4 * COLUMNS * k + REGISTER * i), FLOATS)
                        for k in range(5 if out.dtype == types.uint8 else 3)
                    ]
                    unit, sum_, bias = of_column[:3]
                    value = code.fused(
                        builder.sitofp(part, FLOATS),
                        builder.fmul(scale_here, unit),
                        code.fused(low_here, sum_, bias),
                    )
                    if bend:
                        value = code.gelu(value) if whole else code.short_gelu(value)
                    if out.dtype == types.uint8:
                        value = code.fused(value, *of_column[3:])
                    if not whole:
                        value = code.to_bytes(value, out.dtype == types.int8)
                    code.store(value, start, code.constant(out.dtype.bitwidth // 8 * LANES * i))
            return context.get_dummy_value()

        starts = types.UniTuple(types.int64, 5)
        return types.void(*arrays, starts, *[types.int64] * 3), generate

    return linear_tile


linear_tile = _make_linear_tile(bend=False)
gelu_tile = _make_linear_tile(bend=True)


@intrinsic
def take_whole_registers(_context: Any) -> Any:
    """Have the function that calls this use whole registers of 512 bits.

    LLVM takes half ones for Intel's servers, whose first generations slowed down otherwise.
    """

    def generate(context: Any, builder: ir.IRBuilder, _signature: Any, _values: Any) -> Any:
        # llvmlite's own `add` knows no attributes with values, though it writes them well.
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.void(), generate


def _make_bitcast(source: Any, result: Any, kind: Any) -> Any:
    @intrinsic
    def bitcast(_context: Any, _value: Any) -> Any:
        def generate(_context: Any, builder: ir.IRBuilder, _signature: Any, values: Any) -> Any:
            return builder.bitcast(values[0], kind)

        return result(source), generate

    return bitcast


float_of_bits = _make_bitcast(types.int32, types.float32, FLOAT)
bits_of_float = _make_bitcast(types.float32, types.int32, WORD)

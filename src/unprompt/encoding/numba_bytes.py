"""Attention's steps on bytes, in the processor's vector registers, for numba code.

Scores are int32, from `numba_tile.multiply_tile`. Their softmax is not divided by its sum, but
rounded to uint8 as it is, its peak being 255; what is mixed by it is divided instead.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from unprompt.encoding.numba_code import (
    BYTES,
    FLOAT,
    FLOATS,
    INTEGERS,
    LANES,
    REGISTER,
    WORD,
    Code,
)
from unprompt.encoding.numba_tile import addresses, intrinsic

_LEAST = ir.Constant(INTEGERS, [-(2**30)] * LANES)


@intrinsic
def soften_bytes(
    _context: Any, scores: Any, shares: Any, _start: Any, _length: Any, _unit: Any
) -> Any:
    """Turn a row of scores into shares, the greatest being 255.

    Args:
        scores: int32, filled up to whole registers.
        shares: uint8, as many.
        start: where the row starts, in numbers.
        length: how many scores there are; what fills up becomes nothing.
        unit: what 1 in a score adds to the power of 2, float32.
    """

    def generate(context: Any, builder: ir.IRBuilder, _signature: Any, values: Any) -> Any:
        code = Code(builder)
        starts = [builder.mul(values[2], code.constant(size)) for size in (4, 1)]
        left, right = addresses(context, builder, [scores, shares], values[:2], starts)
        length, lanes = code.spread(builder.trunc(values[3], WORD)), code.constant(LANES)
        count = builder.sdiv(builder.add(values[3], code.constant(LANES - 1)), lanes)
        order = ir.Constant(INTEGERS, list(range(LANES)))

        def read(place: Any) -> Any:
            first = builder.trunc(builder.mul(place, lanes), WORD)
            inside = builder.icmp_signed("<", builder.add(code.spread(first), order), length)
            offset = builder.mul(place, code.constant(REGISTER))
            return builder.select(inside, code.load(left, offset, INTEGERS), _LEAST)

        peaks = code.repeat(
            count, _LEAST, lambda place, peak: code.call("llvm.smax.v16i32", peak, read(place))
        )
        peak, unit = code.spread(code.greatest(peaks)), code.spread(values[4])

        def write(place: Any, held: Any) -> Any:
            below = builder.sitofp(builder.sub(read(place), peak), FLOATS)
            power = code.short_power(builder.fmul(below, unit))
            share = code.to_bytes(builder.fmul(power, code.everywhere(255)), signed=False)
            code.store(share, right, builder.mul(place, lanes))
            return held

        code.repeat(count, code.constant(0), write)
        return context.get_dummy_value()

    return types.void(scores, shares, types.int64, types.int64, types.float32), generate


@intrinsic
def mix_bytes(
    _context: Any,
    shares: Any,
    values_: Any,
    mixed: Any,
    _starts: Any,
    _strides: Any,
    _steps: Any,
) -> Any:
    """Mix a tile of values by shares, and write the mean, rounded, plus 128.

    All as in `numba_tile.multiply_tile`, but of uint8 by int8, four in a step, and uint8 is
    written. The last register of the values' three holds ones, so that its sum is the shares'.
    """
    arrays = (shares, values_, mixed)

    def generate(context: Any, builder: ir.IRBuilder, _signature: Any, values: Any) -> Any:
        code = Code(builder)
        begins, distances = (cgutils.unpack_tuple(builder, value, 3) for value in values[3:5])
        places = addresses(context, builder, arrays, values[:3], begins)
        sums = code.sums(types.uint8, places[:2], distances[:2], values[5])
        offset = ir.Constant(INTEGERS, [128] * LANES)
        for row, (*parts, total) in enumerate(sums):
            start = builder.add(places[2], builder.mul(distances[2], code.constant(row)))
            total = builder.extract_element(total, ir.Constant(WORD, 0))
            whole = builder.fdiv(ir.Constant(FLOAT, 1), builder.sitofp(total, FLOAT))
            inverse = code.spread(whole)
            for i, part in enumerate(parts):
                mean = code.to_integers(builder.fmul(builder.sitofp(part, FLOATS), inverse))
                value = builder.trunc(builder.add(mean, offset), BYTES)
                code.store(value, start, code.constant(LANES * i))
        return context.get_dummy_value()

    threes = types.UniTuple(types.int64, 3)
    return types.void(*arrays, threes, threes, types.int64), generate

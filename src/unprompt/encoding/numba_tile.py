"""Products of small tiles in the processor's vector registers, for numba code.

Each step takes four bytes of every row of the left side, spreads them over a whole register,
multiplies by registers of the right side and adds up in registers. What the four bytes hold is all
that differs: one float32 (``vfmadd``), two int16 (``vpdpwssd``) or four uint8, against int8
(``vpdpbusd``). The last two belong to AVX512-VNNI and add to int32 without saturation (Intel 64
and IA-32 Architectures Software Developer's Manual, volume 2). No open library on PyPI multiplies
int16, and those that multiply int8 are a fifth slower here (benchmarks/RESULTS.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic as _intrinsic

ROWS = 8
"""Rows of a tile: with three registers a row, 24 sums in the processor's 32 registers."""

COLUMNS = 48
"""Columns of a tile of integers: three registers."""

FLOAT_COLUMNS = 32
"""Columns of a tile of float32: two registers, since heads of attention are 32 or 64 wide."""

# Typed loosely: numba's own type has the context as a parameter of the call.
intrinsic: Any = _intrinsic

_LANES = 16
_REGISTER = 4 * _LANES
_WORD = ir.IntType(32)
_OFFSET = ir.IntType(64)
_FLOAT = ir.FloatType()
_INTEGERS = ir.VectorType(_WORD, _LANES)
_FLOATS = ir.VectorType(_FLOAT, _LANES)

_GELU_END = 3.3 * 2**0.5
# Interpolation of (Φ(x) - 1/2) / x in 2x²/end² - 1, at Chebyshev's points, up to the end, beyond
# which Φ is taken as constant. GELU is right to 2e-6, and to 2e-5 for |x| near 9.
_GELU = (
    0.15136854,
    -0.074822764,
    0.053780899,
    -0.040562255,
    0.029594613,
    -0.020352291,
    0.013392433,
    -0.007811953,
    0.0033474787,
    -0.0017068982,
    0.0015555815,
    -0.00064642461,
)

_LOG2_E = 1.4426950408889634
# 2^x for x from 0 to 1, interpolated likewise: right to 1e-7.
_POWER = (1.0, 0.69315462, 0.24014077, 0.055863283, 0.0089462147, 0.0018951073)

binding.initialize_native_asmparser()


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


class _Code:
    """Instructions on whole registers, as they are generated."""

    def __init__(self, builder: ir.IRBuilder):
        self.builder = builder

    def constant(self, value: int) -> Any:
        return ir.Constant(_OFFSET, value)

    def everywhere(self, value: float) -> Any:
        return ir.Constant(_FLOATS, [value] * _LANES)

    def spread(self, number: Any) -> Any:
        """A number in every place of a register."""
        nothing = ir.Constant(ir.VectorType(number.type, _LANES), ir.Undefined)
        first = self.builder.insert_element(nothing, number, ir.Constant(_WORD, 0))
        return self.builder.shuffle_vector(first, nothing, ir.Constant(_INTEGERS, None))

    def load(self, address: Any, offset: Any, kind: Any) -> Any:
        return self.builder.load(self._at(address, offset, kind), align=4)

    def store(self, value: Any, address: Any, offset: Any) -> None:
        self.builder.store(value, self._at(address, offset, value.type), align=4)

    def _at(self, address: Any, offset: Any, kind: Any) -> Any:
        return self.builder.inttoptr(self.builder.add(address, offset), kind.as_pointer())

    def call(self, name: str, *values: Any) -> Any:
        """One of LLVM's functions of registers of one type."""
        kind = values[0].type
        signature = ir.FunctionType(kind, [kind] * len(values))
        function = self.builder.module.declare_intrinsic(name, fnty=signature)
        return self.builder.call(function, values)

    def fused(self, left: Any, right: Any, added: Any) -> Any:
        return self.call("llvm.fma.v16f32", left, right, added)

    def reduce(self, name: str, values: Sequence[Any]) -> Any:
        """The sum or the greatest number of a register, in any order."""
        signature = ir.FunctionType(_FLOAT, [value.type for value in values])
        name = f"llvm.vector.reduce.{name}.v16f32"
        function = self.builder.module.declare_intrinsic(name, fnty=signature)
        return self.builder.call(function, values, fastmath=("reassoc", "nnan"))

    def multiply_add(self, kind: Any, total: Any, left: Any, right: Any) -> Any:
        if kind == types.float32:
            return self.fused(left, right, total)
        if kind == types.uint8:
            return self.call("llvm.x86.avx512.vpdpbusd.512", total, left, right)
        # LLVM knows this one too, but takes two others for it, which are half as fast.
        signature = ir.FunctionType(_INTEGERS, [_INTEGERS] * 3)
        values = (total, left, right)
        return self.builder.asm(signature, "vpdpwssd $3, $2, $0", "=v,0,v,v", values, False)

    def gelu(self, value: Any) -> Any:
        end = self.everywhere(_GELU_END)
        least = self.call("llvm.minnum.v16f32", value, end)
        held = self.call("llvm.maxnum.v16f32", least, self.everywhere(-_GELU_END))
        square = self.builder.fmul(held, held)
        place = self.fused(square, self.everywhere(2 / _GELU_END**2), self.everywhere(-1))
        total = self.everywhere(_GELU[-1])
        for coefficient in _GELU[-2::-1]:
            total = self.fused(total, place, self.everywhere(coefficient))
        return self.builder.fmul(value, self.fused(held, total, self.everywhere(0.5)))

    def exp(self, value: Any) -> Any:
        """e^x for x ≤ 0, but no less than 2^-60.

        That is nothing beside 1, and its products are far from numbers so small that the
        processor takes a hundred times longer over them.
        """
        power = self.builder.fmul(value, self.everywhere(_LOG2_E))
        power = self.call("llvm.maxnum.v16f32", power, self.everywhere(-60))
        floor = self.call("llvm.floor.v16f32", power)
        rest = self.builder.fsub(power, floor)
        total = self.everywhere(_POWER[-1])
        for coefficient in _POWER[-2::-1]:
            total = self.fused(total, rest, self.everywhere(coefficient))
        whole = self.builder.fptosi(floor, _INTEGERS)
        biased = self.builder.add(whole, ir.Constant(_INTEGERS, [127] * _LANES))
        bits = self.builder.shl(biased, ir.Constant(_INTEGERS, [23] * _LANES))
        return self.builder.fmul(total, self.builder.bitcast(bits, _FLOATS))

    def each(self, start: Any, count: Any, held: Any, change: Any) -> Any:
        """Put ``change(offset, register, held)`` for each register; give what is held at last.

        ``change`` gives the register's new value and what is held next.
        """
        builder = self.builder
        before = builder.block
        loop, after = builder.append_basic_block("each"), builder.append_basic_block("behind")
        builder.branch(loop)
        builder.position_at_end(loop)
        place, now = builder.phi(_OFFSET), builder.phi(held.type)
        offset = builder.mul(place, self.constant(_REGISTER))
        value, following = change(place, self.load(start, offset, _FLOATS), now)
        self.store(value, start, offset)
        next_place = builder.add(place, self.constant(1))
        for phi, first, again in ((place, self.constant(0), next_place), (now, held, following)):
            phi.add_incoming(first, before)
            phi.add_incoming(again, loop)
        builder.cbranch(builder.icmp_signed("<", next_place, count), loop, after)
        builder.position_at_end(after)
        return following

    def sums(self, kind: Any, starts: Any, strides: Any, steps: Any) -> list[list[Any]]:
        """The loop; the sums of each row as they stand after it.

        Args:
            kind: numba type of the left side.
            starts: addresses of the left and the right side.
            strides: bytes from row to row on the left, from step to step on the right.
            steps: their number.
        """
        builder, constant = self.builder, self.constant
        vector = _FLOATS if kind == types.float32 else _INTEGERS
        registers = (FLOAT_COLUMNS if kind == types.float32 else COLUMNS) // _LANES
        lefts = [
            builder.add(starts[0], builder.mul(strides[0], constant(row))) for row in range(ROWS)
        ]
        before = builder.block
        loop, after = builder.append_basic_block("step"), builder.append_basic_block("done")
        builder.branch(loop)
        builder.position_at_end(loop)
        step, source = builder.phi(_OFFSET), builder.phi(_OFFSET)
        totals = [[builder.phi(vector) for _ in range(registers)] for _ in range(ROWS)]
        rights = [self.load(source, constant(_REGISTER * i), vector) for i in range(registers)]
        offset = builder.mul(step, constant(4))
        sums = []
        for left, held in zip(lefts, totals, strict=True):
            words = self.spread(self.load(left, offset, vector.element))
            pairs = zip(held, rights, strict=True)
            sums.append([self.multiply_add(kind, total, words, right) for total, right in pairs])
        following = builder.add(step, constant(1))
        step.add_incoming(constant(0), before)
        step.add_incoming(following, loop)
        source.add_incoming(starts[1], before)
        source.add_incoming(builder.add(source, strides[1]), loop)
        for held, added in zip(totals, sums, strict=True):
            for total, value in zip(held, added, strict=True):
                total.add_incoming(ir.Constant(vector, None), before)
                total.add_incoming(value, loop)
        builder.cbranch(builder.icmp_signed("<", following, steps), loop, after)
        builder.position_at_end(after)
        return sums


def _addresses(
    context: Any, builder: ir.IRBuilder, arrays: Sequence[Any], values: Any, starts: Any
) -> list[Any]:
    return [
        builder.add(
            builder.ptrtoint(context.make_array(kind)(context, builder, value).data, _OFFSET),
            start,
        )
        for kind, value, start in zip(arrays, values, starts, strict=True)
    ]


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
    """Multiply a tile of float32: ``out = left @ right``.

    Starts are offsets into the three arrays, strides are distances between their rows, all in
    bytes, and nothing is checked. `ROWS` rows of ``steps`` numbers are read on the left,
    ``steps`` rows of `FLOAT_COLUMNS` on the right, and `ROWS` of them are written.
    """
    arrays = (left, right, out)

    def generate(context: Any, builder: ir.IRBuilder, _signature: Any, values: Any) -> Any:
        code = _Code(builder)
        begins, distances = (cgutils.unpack_tuple(builder, value, 3) for value in values[3:5])
        places = _addresses(context, builder, arrays, values[:3], begins)
        sums = code.sums(types.float32, places[:2], distances[:2], values[5])
        for row, parts in enumerate(sums):
            start = builder.add(places[2], builder.mul(distances[2], code.constant(row)))
            for i, part in enumerate(parts):
                code.store(part, start, code.constant(_REGISTER * i))
        return context.get_dummy_value()

    threes = types.UniTuple(types.int64, 3)
    return types.void(*arrays, threes, threes, types.int64), generate


@intrinsic
def soften(_context: Any, scores: Any, _start: Any, _length: Any) -> Any:
    """Turn a row of scores into shares, by softmax.

    Args:
        scores: float32, filled up to whole registers.
        start: where the row starts, in bytes.
        length: how many scores there are; what fills up becomes nothing.
    """

    def generate(context: Any, builder: ir.IRBuilder, _signature: Any, values: Any) -> Any:
        code = _Code(builder)
        (start,) = _addresses(context, builder, [scores], values[:1], values[1:2])
        length = builder.trunc(values[2], _WORD)
        lanes = code.constant(_LANES)
        count = builder.sdiv(builder.add(values[2], code.constant(_LANES - 1)), lanes)
        order = ir.Constant(_INTEGERS, list(range(_LANES)))
        least = code.everywhere(-1e30)

        def find_peak(place: Any, value: Any, peak: Any) -> tuple[Any, Any]:
            first = builder.trunc(builder.mul(place, lanes), _WORD)
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
        total = code.reduce("fadd", [ir.Constant(_FLOAT, 0), totals])
        inverse = code.spread(builder.fdiv(ir.Constant(_FLOAT, 1), total))
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
        """One tile of a linear layer of rounded rows, as float32.

        The starts are those of ``rounded``, ``packed``, ``columns``, both of ``scales`` and
        ``lows``, and ``out``, in bytes as the strides are. What is computed is
        ``product * scale * unit + low * sum + bias``, where scale and low are the row's, and unit,
        sum and bias the column's: three registers of each, one after the other, in ``columns``.
        """
        arrays = (rounded, packed, columns, scales, lows, out)

        def generate(context: Any, builder: ir.IRBuilder, _signature: Any, values: Any) -> Any:
            code = _Code(builder)
            begins = cgutils.unpack_tuple(builder, values[6], 5)
            left, right, column, scale, low, place = _addresses(
                context, builder, arrays, values[:6], [*begins[:4], *begins[3:]]
            )
            stride, out_stride, steps = values[7:]
            strides = (stride, code.constant(4 * COLUMNS))
            sums = code.sums(rounded.dtype, (left, right), strides, steps)
            for row, parts in enumerate(sums):
                here = code.constant(4 * row)
                scale_here = code.spread(code.load(scale, here, _FLOAT))
                low_here = code.spread(code.load(low, here, _FLOAT))
                start = builder.add(place, builder.mul(out_stride, code.constant(row)))
                for i, part in enumerate(parts):
                    unit, sum_, bias = (
                        code.load(column, code.constant(4 * COLUMNS * k + _REGISTER * i), _FLOATS)
                        for k in range(3)
                    )
                    value = code.fused(
                        builder.sitofp(part, _FLOATS),
                        builder.fmul(scale_here, unit),
                        code.fused(low_here, sum_, bias),
                    )
                    value = code.gelu(value) if bend else value
                    code.store(value, start, code.constant(_REGISTER * i))
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


float_of_bits = _make_bitcast(types.int32, types.float32, _FLOAT)
bits_of_float = _make_bitcast(types.float32, types.int32, _WORD)

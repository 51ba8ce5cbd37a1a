"""Instructions on whole registers of AVX-512, generated for numba code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import binding, ir
from numba import types

ROWS = 8
"""Rows of a tile: with three registers a row, 24 sums in the processor's 32 registers."""

COLUMNS = 48
"""Columns of a tile of integers: three registers."""

FLOAT_COLUMNS = 32
"""Columns of a tile of float32: two registers, since heads of attention are 32 or 64 wide."""

LANES = 16
REGISTER = 4 * LANES
WORD = ir.IntType(32)
OFFSET = ir.IntType(64)
FLOAT = ir.FloatType()
INTEGERS = ir.VectorType(WORD, LANES)
BYTES = ir.VectorType(ir.IntType(8), LANES)
FLOATS = ir.VectorType(FLOAT, LANES)

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

GELU_LEAST = -0.1725
"""Less than any value of GELU, whose least is -0.16997, and of `Code.short_gelu`."""

# u (1 - Φ(u)), which GELU(x) is below max(x, 0) with u = |x|, up to an end beyond which it counts
# as the value there: right to 0.0023 everywhere, a tenth of what rounding to 8 bits loses.
_TAIL_END = 3.6
_TAIL = (-0.0022160938, 0.549205543, -0.57370386, 0.215635094, -0.0333354863, 0.00164893108)

_LOG2_E = 1.4426950408889634
# 2^x for x from 0 to 1, interpolated likewise: right to 1e-7.
_POWER = (1.0, 0.69315462, 0.24014077, 0.055863283, 0.0089462147, 0.0018951073)
# From -1/2 to 1/2: right to 0.0018, which is half of what rounding to 8 bits loses.
_SHORT_POWER = (0.9998487830, 0.7036051750, 0.2432454973)

binding.initialize_native_asmparser()


class Code:
    """Instructions on whole registers, as they are generated."""

    def __init__(self, builder: ir.IRBuilder):
        self.builder = builder

    def constant(self, value: int) -> Any:
        """An offset or a count."""
        return ir.Constant(OFFSET, value)

    def everywhere(self, value: float) -> Any:
        """A register of one float32."""
        return ir.Constant(FLOATS, [value] * LANES)

    def spread(self, number: Any) -> Any:
        """A number in every place of a register."""
        nothing = ir.Constant(ir.VectorType(number.type, LANES), ir.Undefined)
        first = self.builder.insert_element(nothing, number, ir.Constant(WORD, 0))
        return self.builder.shuffle_vector(first, nothing, ir.Constant(INTEGERS, None))

    def load(self, address: Any, offset: Any, kind: Any) -> Any:
        """What is there, of a type; offsets are in bytes."""
        return self.builder.load(self._at(address, offset, kind), align=4)

    def store(self, value: Any, address: Any, offset: Any) -> None:
        """Put a value there."""
        align = 1 if value.type == BYTES else 4
        self.builder.store(value, self._at(address, offset, value.type), align=align)

    def _at(self, address: Any, offset: Any, kind: Any) -> Any:
        return self.builder.inttoptr(self.builder.add(address, offset), kind.as_pointer())

    def call(self, name: str, *values: Any) -> Any:
        """One of LLVM's functions of registers of one type."""
        kind = values[0].type
        signature = ir.FunctionType(kind, [kind] * len(values))
        function = self.builder.module.declare_intrinsic(name, fnty=signature)
        return self.builder.call(function, values)

    def masked(self, name: str, result: Any, *values: Any) -> Any:
        """One of AVX-512's own instructions, in every place, rounding to the nearest."""
        every, as_set = ir.Constant(ir.IntType(16), -1), ir.Constant(WORD, 4)
        values = (*values, ir.Constant(result, None), every, as_set)
        signature = ir.FunctionType(result, [value.type for value in values])
        name = f"llvm.x86.avx512.mask.{name}.512"
        function = self.builder.module.declare_intrinsic(name, fnty=signature)
        return self.builder.call(function, values)

    def to_integers(self, value: Any) -> Any:
        """Numbers rounded to the nearest integers."""
        return self.masked("cvtps2dq", INTEGERS, value)

    def to_bytes(self, value: Any, signed: bool) -> Any:
        """Numbers rounded to int8, or numbers from -1/2 up to uint8; what is too large is cut."""
        whole = self.to_integers(value)
        # LLVM makes one instruction of what follows.
        limits = {"smin": 127, "smax": -128} if signed else {"umin": 255}
        for name, limit in limits.items():
            most = ir.Constant(INTEGERS, [limit] * LANES)
            whole = self.call(f"llvm.{name}.v16i32", whole, most)
        return self.builder.trunc(whole, BYTES)

    def fused(self, left: Any, right: Any, added: Any) -> Any:
        """``left * right + added``, rounded once."""
        return self.call("llvm.fma.v16f32", left, right, added)

    def polynomial(self, coefficients: Sequence[float], value: Any) -> Any:
        """By Horner's rule, of coefficients from the constant up."""
        total = self.everywhere(coefficients[-1])
        for coefficient in coefficients[-2::-1]:
            total = self.fused(total, value, self.everywhere(coefficient))
        return total

    def reduce(self, name: str, values: Sequence[Any]) -> Any:
        """The sum or the greatest number of a register, in any order."""
        signature = ir.FunctionType(FLOAT, [value.type for value in values])
        name = f"llvm.vector.reduce.{name}.v16f32"
        function = self.builder.module.declare_intrinsic(name, fnty=signature)
        return self.builder.call(function, values, fastmath=("reassoc", "nnan"))

    def greatest(self, value: Any) -> Any:
        """The greatest number of a register of integers."""
        name, signature = "llvm.vector.reduce.smax.v16i32", ir.FunctionType(WORD, [INTEGERS])
        function = self.builder.module.declare_intrinsic(name, fnty=signature)
        return self.builder.call(function, [value])

    def multiply_add(self, kind: Any, total: Any, left: Any, right: Any) -> Any:
        """Add to ``total`` the products of one step, whose left side is of a numba type."""
        if kind == types.float32:
            return self.fused(left, right, total)
        if kind in (types.uint8, types.int8):
            unsigned, signed = (left, right) if kind == types.uint8 else (right, left)
            return self.call("llvm.x86.avx512.vpdpbusd.512", total, unsigned, signed)
        # LLVM knows this one too, but takes two others for it, which are half as fast.
        signature = ir.FunctionType(INTEGERS, [INTEGERS] * 3)
        values = (total, left, right)
        return self.builder.asm(signature, "vpdpwssd $3, $2, $0", "=v,0,v,v", values, False)

    def gelu(self, value: Any) -> Any:
        """X Φ(x)."""
        end = self.everywhere(_GELU_END)
        least = self.call("llvm.minnum.v16f32", value, end)
        held = self.call("llvm.maxnum.v16f32", least, self.everywhere(-_GELU_END))
        square = self.builder.fmul(held, held)
        place = self.fused(square, self.everywhere(2 / _GELU_END**2), self.everywhere(-1))
        total = self.polynomial(_GELU, place)
        return self.builder.fmul(value, self.fused(held, total, self.everywhere(0.5)))

    def short_gelu(self, value: Any) -> Any:
        """GELU to 0.0023, for what is rounded to 8 bits next."""
        size = self.call("llvm.fabs.v16f32", value)
        size = self.call("llvm.minnum.v16f32", size, self.everywhere(_TAIL_END))
        tail = self.polynomial(_TAIL, size)
        above = self.call("llvm.maxnum.v16f32", value, self.everywhere(0))
        return self.builder.fsub(above, tail)

    def short_power(self, value: Any) -> Any:
        """2^x for x ≤ 0 to 0.18 %, and no less than 2^-60, as in `exp`."""
        held = self.call("llvm.maxnum.v16f32", value, self.everywhere(-60))
        whole = self.call("llvm.nearbyint.v16f32", held)
        rest = self.builder.fsub(held, whole)
        total = self.polynomial(_SHORT_POWER, rest)
        return self.masked("scalef.ps", FLOATS, total, whole)

    def exp(self, value: Any) -> Any:
        """e^x for x ≤ 0, but no less than 2^-60.

        That is nothing beside 1, and its products are far from numbers so small that the
        processor takes a hundred times longer over them.
        """
        power = self.builder.fmul(value, self.everywhere(_LOG2_E))
        power = self.call("llvm.maxnum.v16f32", power, self.everywhere(-60))
        floor = self.call("llvm.floor.v16f32", power)
        rest = self.builder.fsub(power, floor)
        total = self.polynomial(_POWER, rest)
        whole = self.builder.fptosi(floor, INTEGERS)
        biased = self.builder.add(whole, ir.Constant(INTEGERS, [127] * LANES))
        bits = self.builder.shl(biased, ir.Constant(INTEGERS, [23] * LANES))
        return self.builder.fmul(total, self.builder.bitcast(bits, FLOATS))

    def repeat(self, count: Any, held: Any, change: Any) -> Any:
        """Hold ``change(place, held)`` next, for each place from 0 to before ``count`` (≥ 1)."""
        builder = self.builder
        before = builder.block
        loop, after = builder.append_basic_block("each"), builder.append_basic_block("behind")
        builder.branch(loop)
        builder.position_at_end(loop)
        place, now = builder.phi(OFFSET), builder.phi(held.type)
        following = change(place, now)
        next_place = builder.add(place, self.constant(1))
        for phi, first, again in ((place, self.constant(0), next_place), (now, held, following)):
            phi.add_incoming(first, before)
            phi.add_incoming(again, loop)
        builder.cbranch(builder.icmp_signed("<", next_place, count), loop, after)
        builder.position_at_end(after)
        return following

    def each(self, start: Any, count: Any, held: Any, change: Any) -> Any:
        """Put ``change(place, register, held)`` for each register; give what is held at last.

        ``change`` gives the register's new value and what is held next.
        """

        def put(place: Any, now: Any) -> Any:
            offset = self.builder.mul(place, self.constant(REGISTER))
            value, following = change(place, self.load(start, offset, FLOATS), now)
            self.store(value, start, offset)
            return following

        return self.repeat(count, held, put)

    def prefetch(self, address: Any) -> None:
        """Have a line of memory brought to the caches; it need not exist."""
        place = ir.IntType(8).as_pointer()
        kinds = [place, *[ir.IntType(32)] * 3]
        signature = ir.FunctionType(ir.VoidType(), kinds)
        function = self.builder.module.declare_intrinsic("llvm.prefetch", kinds[:1], signature)
        reading, nearest, data = (ir.Constant(kinds[1], value) for value in (0, 3, 1))
        address = self.builder.inttoptr(address, place)
        self.builder.call(function, [address, reading, nearest, data])

    def sums(
        self, kind: Any, starts: Any, strides: Any, steps: Any, rows: int = ROWS, ahead: int = 0
    ) -> list[list[Any]]:
        """The loop; the sums of each row as they stand after it.

        Args:
            kind: numba type of the left side.
            starts: addresses of the left and the right side.
            strides: bytes from row to row on the left, from step to step on the right.
            steps: their number.
            rows: of the tile.
            ahead: bytes by which to fetch the right side in advance; 0 leaves that to the
                processor.
        """
        builder, constant = self.builder, self.constant
        vector = FLOATS if kind == types.float32 else INTEGERS
        registers = (FLOAT_COLUMNS if kind == types.float32 else COLUMNS) // LANES
        lefts = [
            builder.add(starts[0], builder.mul(strides[0], constant(row))) for row in range(rows)
        ]
        before = builder.block
        loop, after = builder.append_basic_block("step"), builder.append_basic_block("done")
        builder.branch(loop)
        builder.position_at_end(loop)
        step, source = builder.phi(OFFSET), builder.phi(OFFSET)
        totals = [[builder.phi(vector) for _ in range(registers)] for _ in range(rows)]
        for i in range(registers if ahead else 0):
            self.prefetch(builder.add(source, constant(ahead + REGISTER * i)))
        rights = [self.load(source, constant(REGISTER * i), vector) for i in range(registers)]
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

"""What `unprompt.models.coca.panels` computes, compiled by numba; see there.

Each thread of a team computes the outputs of some panels from all rows, so that the weights are
read once, by each thread in one stream.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from llvmlite import binding
from numba import types
from numpy.polynomial import chebyshev

from unprompt.encoding.numba_code import FLOAT_COLUMNS
from unprompt.encoding.numba_kernels import FAST, normalise
from unprompt.encoding.numba_tile import (
    intrinsic,
    soften,
    stream_eight,
    stream_four,
    stream_one,
    take_whole_registers,
)
from unprompt.models.coca.team import address_of

_OTHERS = 1
"""To be raised with every change to what is imported: numba's cache looks at this file alone."""

_compiled = numba.njit(fastmath=FAST, error_model="numpy")


def _borrowed(name: str, result: Any) -> Any:
    """A function of the team's library, for compiled code."""
    binding.add_symbol(f"unprompt_{name}", address_of(name))
    return types.ExternalFunction(f"unprompt_{name}", result())


_barrier = _borrowed("GOMP_barrier", types.void)
_thread = _borrowed("omp_get_thread_num", types.int32)
_threads = _borrowed("omp_get_num_threads", types.int32)

_END = 5.5


def _gelu_factor(place: Any) -> Any:
    """(Φ(x) - 1/2) / x in 2x²/end² - 1."""
    x = np.maximum(_END * np.sqrt((place + 1) / 2), 1e-6)
    return np.array([math.erf(value / 2**0.5) / 2 / value for value in x])


# Interpolated at Chebyshev's points up to the end, beyond which Φ is 0 or 1 to 2e-8. GELU is then
# right to 1e-6 for |x| < 9, as PyTorch's.
_DEGREE = 16
_GELU = chebyshev.cheb2poly(chebyshev.chebinterpolate(_gelu_factor, _DEGREE)).astype(np.float32)
_LAST, _SCALE = np.float32(_END), np.float32(2 / _END**2)
# Plain numbers would make float64 of everything that they meet.
_ONE, _HALF, _ZERO = np.float32(1), np.float32(0.5), np.float32(0)

NOTHING, GELU, ADD = 0, 1, 2
"""What follows a product."""


@intrinsic
def _pointer(_context: Any, _address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.inttoptr(values[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.float32)(types.int64), generate


@_compiled
def _bend(line: np.ndarray) -> None:
    take_whole_registers()
    for i in range(FLOAT_COLUMNS):
        x = line[i]
        held = min(max(x, -_LAST), _LAST)
        place = held * held * _SCALE - _ONE
        total = _GELU[_DEGREE]
        for k in range(_DEGREE):
            total = total * place + _GELU[_DEGREE - 1 - k]
        line[i] = x * (held * total + _HALF)


@_compiled
def _multiply(
    x: np.ndarray,
    panels: np.ndarray,
    bias: np.ndarray,
    then: int,
    added: np.ndarray,
    out: np.ndarray,
) -> None:
    """This thread's columns of ``x @ panels + bias``, and what follows.

    Args:
        x: float32 of shape (rows, inputs).
        panels: float32 of shape (outputs / `FLOAT_COLUMNS`, inputs, `FLOAT_COLUMNS`).
        bias: float32 of shape (outputs,).
        then: `NOTHING`, `GELU`, or `ADD` for ``added``, of shape (rows, outputs).
        added: see ``then``.
        out: float32 of shape (rows, outputs).
    """
    take_whole_registers()
    rows, inputs = x.shape
    count, outputs = len(panels), out.shape[1]
    me, team = _thread(), _threads()
    strides = (4 * inputs, 4 * FLOAT_COLUMNS, 4 * outputs)
    for panel in range(count * me // team, count * (me + 1) // team):
        first = panel * FLOAT_COLUMNS
        shift = bias[first : first + FLOAT_COLUMNS]
        top = 0
        while top < rows:
            starts = (4 * top * inputs, 4 * first * inputs, 4 * (top * outputs + first))
            if top + 8 <= rows:
                height = 8
                stream_eight(x, panels, out, starts, strides, inputs)
            elif top + 4 <= rows:
                height = 4
                stream_four(x, panels, out, starts, strides, inputs)
            else:
                height = 1
                stream_one(x, panels, out, starts, strides, inputs)
            for row in range(top, top + height):
                line = out[row, first : first + FLOAT_COLUMNS]
                for i in range(FLOAT_COLUMNS):
                    line[i] += shift[i]
                if then == GELU:
                    _bend(line)
                elif then == ADD:
                    more = added[row, first : first + FLOAT_COLUMNS]
                    for i in range(FLOAT_COLUMNS):
                        line[i] += more[i]
            top += height


@_compiled
def _normalise(x: np.ndarray, norm: np.ndarray, out: np.ndarray) -> None:
    """A layer norm by the whole team, awaited; ``norm`` is scale, shift and epsilon."""
    take_whole_registers()
    rows, width = x.shape
    me, team = _thread(), _threads()
    for row in range(rows * me // team, rows * (me + 1) // team):
        out[row] = x[row]
        normalise(out[row], norm[:width], norm[width : 2 * width], norm[2 * width])
    _barrier()


_entry = numba.cfunc(
    types.void(types.CPointer(types.int64)), cache=True, fastmath=FAST, error_model="numpy"
)


@_compiled
def _matrix(address: int, rows: int, columns: int) -> np.ndarray:
    return numba.carray(_pointer(address), (rows, columns))


@_compiled
def _panels(address: int, inputs: int, outputs: int) -> np.ndarray:
    shape = (outputs // FLOAT_COLUMNS, inputs, FLOAT_COLUMNS)
    return numba.carray(_pointer(address), shape)


@_compiled
def _vector(address: int, length: int) -> np.ndarray:
    return numba.carray(_pointer(address), (length,))


@_entry
def linear(given: Any) -> None:
    """A linear layer.

    Args:
        given: addresses of rows and results, the number of rows, the layer's inputs and outputs,
            addresses of its panels and its bias.
    """
    x, out, rows, inputs, outputs, weight, bias = numba.carray(given, 7)
    result = _matrix(out, rows, outputs)
    _multiply(
        _matrix(x, rows, inputs), _panels(weight, inputs, outputs), _vector(bias, outputs),
        NOTHING, result, result,
    )  # fmt: skip


@_entry
def project(given: Any) -> None:
    """A layer norm and a linear layer.

    Args:
        given: addresses of rows, results and room for the normalised rows, the number of rows,
            the layer's inputs and outputs, addresses of the norm, the panels and the bias.
    """
    x, out, room, rows, inputs, outputs, norm, weight, bias = numba.carray(given, 9)
    normed, result = _matrix(room, rows, inputs), _matrix(out, rows, outputs)
    _normalise(_matrix(x, rows, inputs), _vector(norm, 2 * inputs + 1), normed)
    _multiply(
        normed, _panels(weight, inputs, outputs), _vector(bias, outputs), NOTHING, result, result
    )


@_compiled
def _finish(
    attended: np.ndarray,
    x: np.ndarray,
    held: np.ndarray,
    normed: np.ndarray,
    hidden: np.ndarray,
    out: np.ndarray,
    places: Any,
) -> None:
    """What follows attention in a block: a layer, a norm, the MLP, and both residuals.

    Args:
        attended: what attention gathered.
        x: the block's input.
        held: room for as many numbers.
        normed: likewise.
        hidden: room for the MLP's.
        out: the result.
        places: addresses of the norm, and of panels and bias of each of the three layers.
    """
    norm, mix, mix_bias, expand, expand_bias, contract, contract_bias = places
    width, wide = x.shape[1], hidden.shape[1]
    _multiply(attended, _panels(mix, width, width), _vector(mix_bias, width), ADD, x, held)
    _barrier()
    _normalise(held, _vector(norm, 2 * width + 1), normed)
    _multiply(
        normed, _panels(expand, width, wide), _vector(expand_bias, wide), GELU, hidden, hidden
    )
    _barrier()
    _multiply(hidden, _panels(contract, wide, width), _vector(contract_bias, width), ADD, held, out)


@_entry
def finish(given: Any) -> None:
    """What follows attention in a block.

    Args:
        given: addresses of what attention gathered, of the block's input, of results, and of room
            for twice as many numbers and for the MLP's, the number of rows, the width and the
            MLP's, and the addresses that `_finish` takes.
    """
    attended, x, out, room, wide_room, rows, width, wide, a, b, c, d, e, f, g = numba.carray(
        given, 15
    )
    _finish(
        _matrix(attended, rows, width), _matrix(x, rows, width), _matrix(room, rows, width),
        _matrix(room + 4 * rows * width, rows, width), _matrix(wide_room, rows, wide),
        _matrix(out, rows, width), (a, b, c, d, e, f, g),
    )  # fmt: skip


@_compiled
def _attend(
    query: np.ndarray, keys: np.ndarray, values: np.ndarray, shares: np.ndarray, out: np.ndarray
) -> None:
    """One query's attention.

    Args:
        query: float32 of shape (width of a head,).
        keys: float32 of shape (positions, width of a head).
        values: likewise.
        shares: room for a number a position, filled up to whole registers.
        out: as ``query``.
    """
    take_whole_registers()
    width = len(query)
    root = _ONE / np.sqrt(np.float32(width))
    for i in range(width):
        out[i] = query[i] * root
    for place in range(len(keys)):
        key, total = keys[place], _ZERO
        for i in range(width):
            total += out[i] * key[i]
        shares[place] = total
    soften(shares, 0, len(keys))
    for i in range(width):
        out[i] = _ZERO
    for place in range(len(values)):
        value, share = values[place], shares[place]
        for i in range(width):
            out[i] += share * value[i]


@_compiled
def _gather(
    parts: np.ndarray, keys: np.ndarray, values: np.ndarray, length: int, room: np.ndarray,
    attended: np.ndarray,
) -> None:  # fmt: skip
    """Attention of every row, heads and groups of rows shared among the team.

    Args:
        parts: queries of shape (rows, width); or queries, keys and values, (rows, 3 * width), of
            which the keys and values are first put at the last of the positions.
        keys: of shape (groups, heads, capacity, width of a head); rows that follow one another
            look at the same group.
        values: likewise.
        length: positions that are seen.
        room: of shape (rows * heads, length filled up to whole registers).
        attended: the result, (rows, width).
    """
    groups, heads, _, each = keys.shape
    rows, width = attended.shape
    me, team, among = _thread(), _threads(), rows // groups
    pairs = groups * heads
    for pair in range(pairs * me // team, pairs * (me + 1) // team):
        group, head = pair // heads, pair % heads
        at = head * each
        if parts.shape[1] > width:
            keys[group, head, length - 1] = parts[group, width + at : width + at + each]
            values[group, head, length - 1] = parts[group, 2 * width + at : 2 * width + at + each]
        for row in range(group * among, (group + 1) * among):
            _attend(
                parts[row, at : at + each], keys[group, head, :length],
                values[group, head, :length], room[row * heads + head],
                attended[row, at : at + each],
            )  # fmt: skip


@_entry
def step(given: Any) -> None:
    """A whole block, of rows that see all that is cached.

    Args:
        given: addresses of rows, results and room, the number of rows, the width and the MLP's,
            the outputs of the projection, the addresses of the first norm and of the projection's
            panels and bias, those that `_finish` takes, those of keys and values, and the groups,
            heads, capacity and length of these. Room is for the numbers of the projection and the
            MLP, and three times the width and the shares of all heads besides, for each row.
    """
    (
        x, out, room, rows, width, wide, outputs, norm, weight, bias,
        a, b, c, d, e, f, g, keys, values, groups, heads, capacity, length,
    ) = numba.carray(given, 23)  # fmt: skip
    line, filled = 4 * rows * width, (length + 15) // 16 * 16
    given_rows, normed = _matrix(x, rows, width), _matrix(room, rows, width)
    attended, held = _matrix(room + line, rows, width), _matrix(room + 2 * line, rows, width)
    shares = _matrix(room + 3 * line, rows * heads, filled)
    place = room + 3 * line + 4 * rows * heads * filled
    hidden = _matrix(place, rows, wide)
    parts = _matrix(place + 4 * rows * wide, rows, outputs)
    _normalise(given_rows, _vector(norm, 2 * width + 1), normed)
    _multiply(
        normed, _panels(weight, width, outputs), _vector(bias, outputs), NOTHING, parts, parts
    )
    _barrier()
    shape = (groups, heads, capacity, width // heads)
    _gather(
        parts, numba.carray(_pointer(keys), shape), numba.carray(_pointer(values), shape), length,
        shares, attended,
    )  # fmt: skip
    _barrier()
    _finish(
        attended, given_rows, held, normed, hidden, _matrix(out, rows, width), (a, b, c, d, e, f, g)
    )

"""Write ONNX models without the onnx package, which the light install does not have.

ONNX is a protocol buffer; the numbers below are the fields of ``onnx.proto`` (Apache-2.0,
github.com/onnx/onnx). Only the messages that `unprompt.encoding.bert_graph` needs are here.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import numpy as np

IR_VERSION = 11
OPSET = 23
MICROSOFT = "com.microsoft"
"""Domain of ONNX Runtime's own fused operators."""

_TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7}


def node(
    op: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    domain: str = "",
    **attributes: int | float,
) -> bytes:
    """A node of a graph; the empty string stands for a missing optional input."""
    parts = [_text(1, name) for name in inputs] + [_text(2, name) for name in outputs]
    parts.append(_text(4, op))
    parts += [_bytes(5, _attribute(name, value)) for name, value in attributes.items()]
    return b"".join([*parts, _text(7, domain)])


def tensor(name: str, array: np.ndarray) -> bytes:
    """A constant (initialiser) of a graph."""
    parts = [_integer(1, size) for size in array.shape]
    parts += [_integer(2, _TYPES[array.dtype.name]), _text(8, name)]
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return b"".join([*parts, _bytes(9, little.tobytes())])


def model(
    nodes: Sequence[bytes],
    constants: Mapping[str, np.ndarray],
    inputs: Mapping[str, tuple[str, Sequence[int | str]]],
    outputs: Mapping[str, tuple[str, Sequence[int | str]]],
) -> bytes:
    """A whole model, as `onnxruntime.InferenceSession` takes it.

    Args:
        nodes: from `node`, in execution order.
        constants: arrays by name.
        inputs: element type and shape by name; a variable size is given as a word.
        outputs: element type and shape by name.
    """
    parts = [_bytes(1, item) for item in nodes] + [_text(2, "unprompt")]
    parts += [_bytes(5, tensor(name, array)) for name, array in constants.items()]
    parts += [_bytes(11, _value(name, *kind)) for name, kind in inputs.items()]
    parts += [_bytes(12, _value(name, *kind)) for name, kind in outputs.items()]
    versions = [
        _bytes(8, _text(1, domain) + _integer(2, version))
        for domain, version in (("", OPSET), (MICROSOFT, 1))
    ]
    return b"".join([_integer(1, IR_VERSION), _bytes(7, b"".join(parts)), *versions])


def _attribute(name: str, value: int | float) -> bytes:
    if isinstance(value, float):
        return _text(1, name) + _key(2, 5) + struct.pack("<f", value) + _integer(20, 1)
    return _text(1, name) + _integer(3, value) + _integer(20, 2)


def _value(name: str, dtype: str, shape: Sequence[int | str]) -> bytes:
    sizes = [_text(2, size) if isinstance(size, str) else _integer(1, size) for size in shape]
    dimensions = b"".join(_bytes(1, size) for size in sizes)
    kind = _integer(1, _TYPES[dtype]) + _bytes(2, dimensions)
    return _text(1, name) + _bytes(2, _bytes(1, kind))


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())


def _bytes(field: int, value: bytes) -> bytes:
    return _key(field, 2) + _varint(len(value)) + value


def _integer(field: int, value: int) -> bytes:
    return _key(field, 0) + _varint(value)


def _key(field: int, wire_type: int) -> bytes:
    return _varint(field << 3 | wire_type)


def _varint(value: int) -> bytes:
    """Seven bits a byte, lowest first; negative numbers in two's complement of 64 bits."""
    value &= 0xFFFF_FFFF_FFFF_FFFF
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)

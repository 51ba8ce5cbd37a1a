"""From an exported graph in float32 to one whose convolutions run in 8 bits.

Static post-training quantisation by ONNX Runtime: each output channel of a convolution has its own
scale (Krishnamoorthi 2018, arXiv 1806.08342), and the range of each activation is measured on
pictures. Head and pooling stay in float32, and so does the first convolution: 1 % of the work, on
pixels whose zero no 8-bit number says exactly. Processors without VNNI add two products in 16 bits
and may cut the sum off; weights of 7 bits, which rule that out, cost more than it does
(experiments/NOTES.md).
"""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from unprompt.errors import UnpromptError

PICTURES = 128
"""How many pictures suffice to measure ranges on."""
PERCENTILE = 99.99
"""Share of an activation's values, in per cent, that its range holds: cutting the extremes off
makes the steps between all the others finer."""
_BATCH = 16
_FEWEST = 8
"""Convolutions that a backbone has at least; a vision transformer's patches are one."""


def quantise_convolutions(graph: Any, pixels: np.ndarray) -> Any:
    """The graph with its convolutions, but the first, in 8 bits.

    Args:
        graph: an ``onnx.ModelProto`` that holds its weights, from ``pixels`` to ``features`` and
            on to ``embedding``; what comes after ``features`` is left as it is.
        pixels: of pictures as the model will meet, uint8 of shape (n, 3, size, size); of more than
            16 a multiple of 16 counts.

    Returns:
        Another ``onnx.ModelProto``, batch norms folded into the convolutions.

    Raises:
        UnpromptError: the graph has no convolutions to speak of, as a vision transformer's.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    # ONNX Runtime says on standard output what it collects.
    with TemporaryDirectory() as scratch, redirect_stdout(StringIO()):
        plain, folded, small = (Path(scratch) / name for name in ("plain", "folded", "small"))
        onnx.save(graph, plain)
        quant_pre_process(plain, folded, skip_symbolic_shape=True)
        quantize_static(
            folded,
            small,
            _batches(pixels),
            quant_format=QuantFormat.QDQ,
            nodes_to_quantize=_worthwhile(onnx.load(folded).graph),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.Percentile,
            extra_options={
                "CalibPercentile": PERCENTILE,
                "CalibStridedMinMax": min(_BATCH, len(pixels)),
            },
        )
        return onnx.load(small)


def _worthwhile(graph: Any) -> list[str]:
    """Names of the nodes that run in 8 bits: of the backbone, after its first activation."""
    makers = {output: node for node in graph.node for output in node.output}
    backbone, waiting = set(), ["features"]
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and node.name not in backbone:
            backbone.add(node.name)
            waiting.extend(node.input)

    def named(kind: str) -> list[str]:
        return [n.name for n in graph.node if n.op_type == kind and n.name in backbone]

    convolutions = named("Conv")
    if len(convolutions) < _FEWEST:
        raise UnpromptError(
            f"8 bits are for networks of convolutions, and this backbone has {len(convolutions)}; "
            "export it in 16 bits, without int8"
        )
    return convolutions[1:] + named("Relu")[1:] + named("Add")


def _batches(pixels: np.ndarray) -> Any:
    """What ONNX Runtime takes pictures from, a few at a time: all their activations are held."""
    from onnxruntime.quantization import CalibrationDataReader

    class Batches(CalibrationDataReader):
        def __init__(self) -> None:
            self.waiting = iter(range(0))

        def __len__(self) -> int:
            return len(pixels) // _BATCH * _BATCH or len(pixels)

        def set_range(self, start_index: int, end_index: int) -> None:
            self.waiting = iter(range(start_index, end_index, _BATCH))

        def get_next(self) -> dict[str, np.ndarray] | None:
            start = next(self.waiting, None)
            return None if start is None else {"pixels": pixels[start : start + _BATCH]}

    return Batches()

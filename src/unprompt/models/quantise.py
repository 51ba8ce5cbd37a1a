"""Quantise an exported float32 graph, so that its convolutions run in 8 bits.

This is static post-training quantisation by ONNX Runtime. Each output channel of a convolution has
its own scale (Krishnamoorthi 2018, arXiv 1806.08342), and the range of each activation is measured
on images. Head and pooling stay in float32, and so does the first convolution: it is 1 % of the
work, and no 8-bit number represents the zero of its pixels exactly. Processors without VNNI add two
products in 16 bits, which may overflow; 7-bit weights prevent that but cost more accuracy
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

IMAGES = 128
"""Number of images that suffice to measure ranges."""
PERCENTILE = 99.99
"""Share of an activation's values, in per cent, that its range covers. Without the extreme values,
the range has finer steps."""
_BATCH = 16
_FEWEST = 8
"""Least number of convolutions in a backbone; a vision transformer has one, for its patches."""


def quantise_convolutions(graph: Any, pixels: np.ndarray) -> Any:
    """Quantise all convolutions of a graph except the first to 8 bits.

    Args:
        graph: an ``onnx.ModelProto`` that holds its weights, from ``pixels`` to ``features`` and
            ``embedding``; the nodes after ``features`` are not changed.
        pixels: pixels of images like those that the model will see, uint8 of shape (n, 3, size,
            size); if there are more than 16, a multiple of 16 is used.

    Returns:
        A new ``onnx.ModelProto``, with batch norms folded into the convolutions.

    Raises:
        UnpromptError: the graph has too few convolutions, like that of a vision transformer.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    # ONNX Runtime prints its measurements on standard output.
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
    """Names of the nodes to run in 8 bits: those of the backbone after its first activation."""
    makers = {output: node for node in graph.node for output in node.output}
    backbone, waiting = set(), ["features"]
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and node.name not in backbone:
            backbone.add(node.name)
            waiting.extend(node.input)

    def named(op_type: str) -> list[str]:
        return [n.name for n in graph.node if n.op_type == op_type and n.name in backbone]

    convolutions = named("Conv")
    if len(convolutions) < _FEWEST:
        raise UnpromptError(
            f"8 bits are for networks of convolutions, but this backbone has {len(convolutions)}; "
            "export it in 16 bits, without int8"
        )
    return convolutions[1:] + named("Relu")[1:] + named("Add")


def _batches(pixels: np.ndarray) -> Any:
    """A reader of few images at a time, because ONNX Runtime holds all their activations."""
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

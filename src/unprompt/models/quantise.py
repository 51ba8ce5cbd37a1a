"""From an exported graph to one whose convolutions compute in 8-bit integers.

Convolutions take most of the time, and integers are fast where the processor has instructions for
them (VNNI, or ARM's dot products). The head stays as it is: it is cheap, and its kernel and its
softmax are of the kind that suffers most from rounding.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from unprompt.errors import UnpromptError
from unprompt.files import atomic_path
from unprompt.models.embedder import WEIGHTS_FILE
from unprompt.models.export import ONNX_FILE


def quantise_onnx(folder: str | Path, batches: Iterable[np.ndarray]) -> Path:
    """Replace a folder's ``model.onnx`` by an int8 one, which holds all its weights.

    Static quantisation (Jacob et al. 2018, arXiv 1712.05877) by ONNX Runtime: weights by output
    channel, activations by their extremes on the pictures at hand. ``model.safetensors``, which
    the graph pointed into, is removed: the folder then runs on ONNX Runtime only.

    Args:
        folder: as `unprompt.models.export.export_onnx` writes it.
        batches: pixels to measure the activations on, uint8 of shape (batch, 3, size, size); a
            few hundred pictures of the kind that the model will see.

    Returns:
        The path of ``model.onnx``.

    Raises:
        UnpromptError: there are no pictures.
        OutputError: the folder cannot be written.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Pictures(CalibrationDataReader):
        def __init__(self) -> None:
            self._batches: Iterator[np.ndarray] = iter(batches)
            self.seen = 0

        def get_next(self) -> dict[str, np.ndarray] | None:
            pixels = next(self._batches, None)
            self.seen += 0 if pixels is None else len(pixels)
            return None if pixels is None else {"pixels": pixels}

    folder = Path(folder)
    pictures = Pictures()
    options: dict[str, Any] = {"ActivationSymmetric": False, "WeightSymmetric": True}
    with tempfile.TemporaryDirectory() as scratch:
        folded = Path(scratch) / "folded.onnx"
        _fold(folder / ONNX_FILE, folded)
        with atomic_path(folder / ONNX_FILE) as path:
            try:
                quantize_static(
                    folded,
                    path,
                    pictures,
                    quant_format=QuantFormat.QDQ,
                    op_types_to_quantize=["Conv"],
                    per_channel=True,
                    activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8,
                    extra_options=options,
                )
            except ValueError as error:
                if pictures.seen:
                    raise
                raise UnpromptError("int8 needs pictures to measure; there are none") from error
    (folder / WEIGHTS_FILE).unlink(missing_ok=True)
    return folder / ONNX_FILE


def _fold(source: Path, target: Path) -> None:
    """Write a graph whose batch norms are folded into the convolutions, its weights inside."""
    import onnx
    import onnxruntime

    whole = target.with_name("whole.onnx")
    onnx.save(onnx.load(source), whole)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    onnxruntime.InferenceSession(whole, options, providers=["CPUExecutionProvider"])

"""From a trained embedder to one ONNX file that runs without torch."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch

from unprompt.files import atomic_open, atomic_path
from unprompt.models.embedder import CONFIG_FILE, MODEL_TYPE, Embedder

ONNX_FILE = "model.onnx"
_LARGE = 256
"""Matrices and convolutions with at least this many values are stored in half precision; vectors
(biases, statistics of batch norms) save little and may leave float16's range."""


class _TwoOutputs(torch.nn.Module):
    def __init__(self, embedder: Embedder):
        super().__init__()
        self.embedder = embedder

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.embedder.features(pixels)
        return self.embedder.embed(features), features


def export_onnx(embedder: Embedder, folder: str | Path, half: bool = True) -> Path:
    """Write ``model.onnx``, ``config.json`` and ``preprocessor_config.json``.

    The graph takes ``pixels``, uint8 of shape (batch, 3, size, size), and gives ``embedding``,
    float32 of shape (batch, dim) and norm 1, and ``features``, float32 (batch, width).

    Args:
        embedder: the model, in evaluation mode.
        folder: made where missing.
        half: store weights as float16, half the size. Arithmetic stays in float32.

    Returns:
        The path of ``model.onnx``.

    Raises:
        OutputError: the folder cannot be written.
    """
    import onnx

    folder = Path(folder)
    size = embedder.preprocessing.size
    example = torch.zeros(2, 3, size, size, dtype=torch.uint8)
    program = torch.onnx.export(
        _TwoOutputs(embedder.to("cpu")).eval(),
        (example,),
        input_names=["pixels"],
        output_names=["embedding", "features"],
        dynamic_shapes={"pixels": {0: torch.export.Dim("batch")}},
        dynamo=True,
        verbose=False,
    )
    assert program is not None  # noqa: S101 - with dynamo=True the exporter returns the program
    model: onnx.ModelProto = program.model_proto
    _forget_sources(model.graph)
    if half:
        _halve(model.graph)
    with atomic_path(folder / ONNX_FILE) as path:
        onnx.save(model, path)
    embedder.preprocessing.save(folder)
    with atomic_open(folder / CONFIG_FILE) as file:
        json.dump({"model_type": MODEL_TYPE} | asdict(embedder.architecture), file, indent=2)
        file.write("\n")
    return folder / ONNX_FILE


def _forget_sources(graph: onnx.GraphProto) -> None:  # type: ignore[name-defined]  # noqa: F821
    """Drop the exporter's notes: stack traces with paths of this machine."""
    for item in (*graph.node, *graph.input, *graph.output, *graph.initializer, *graph.value_info):
        del item.metadata_props[:]
        item.doc_string = ""
    del graph.metadata_props[:]


def _halve(graph: onnx.GraphProto) -> None:  # type: ignore[name-defined]  # noqa: F821
    """Store large float32 initialisers as float16 behind a cast, which the runtime folds away."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type != TensorProto.FLOAT or values.ndim < 2 or values.size < _LARGE:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)

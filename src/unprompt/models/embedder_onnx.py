"""Export of a trained embedder to an ONNX graph that runs without torch.

The graph holds no weights. It refers to ``model.safetensors`` beside it (ONNX's external data), so
that one file of weights serves both ONNX Runtime and `Embedder.from_pretrained`.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unprompt.files import atomic_path
from unprompt.models.embedder import Embedder
from unprompt.models.model_folder import ONNX_FILE, WEIGHTS_FILE
from unprompt.models.quantise import quantise_convolutions


class _TwoOutputs(torch.nn.Module):
    def __init__(self, embedder: Embedder):
        super().__init__()
        self.embedder = embedder

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.embedder.features(pixels)
        return self.embedder.embed(features), features


def export_onnx(
    embedder: Embedder, folder: str | Path, half: bool = True, int8: np.ndarray | None = None
) -> Path:
    """Write a model folder (`Embedder.save_pretrained`) and ``model.onnx`` into it.

    The graph's input is ``pixels``, uint8 of shape (batch, 3, size, size). Its outputs are
    ``embedding``, float32 of shape (batch, dim) and norm 1, and ``features``, float32 (batch,
    width).

    Args:
        embedder: the model, in evaluation mode.
        folder: made if missing.
        half: store matrices and kernels as float16, half the size. Arithmetic stays in float32.
        int8: images, uint8 of shape (n, 3, size, size), on which to measure ranges, so that
            convolutions run in 8 bits; see `unprompt.models.quantise`. The graph then holds the
            8-bit weights, and ``model.safetensors`` those that `Embedder.from_pretrained` loads.

    Returns:
        The path of ``model.onnx``.

    Raises:
        OutputError: the folder cannot be written.
        UnpromptError: the backbone cannot run in 8 bits.
    """
    import onnx
    from onnxscript import optimizer

    folder = Path(folder)
    size = embedder.preprocessing.size
    program = torch.onnx.export(
        _TwoOutputs(embedder.to("cpu")).eval(),
        (torch.zeros(2, 3, size, size, dtype=torch.uint8),),
        input_names=["pixels"],
        output_names=["embedding", "features"],
        dynamic_shapes={"pixels": {0: torch.export.Dim("batch")}},
        dynamo=True,
        # The exporter would fold batch norms into the weights, which then differ from the file's;
        # ONNX Runtime folds them when it loads the graph.
        optimize=False,
        verbose=False,
    )
    assert program is not None  # noqa: S101 - with dynamo=True the exporter returns the program
    optimizer.fold_constants(program.model)
    optimizer.remove_unused_nodes(program.model)
    model = (
        program.model_proto if int8 is None else quantise_convolutions(program.model_proto, int8)
    )
    _forget_sources(model.graph)
    # Everything is checked before the first file is written.
    embedder.save_pretrained(folder, half)
    _point_into(model.graph, folder / WEIGHTS_FILE)
    with atomic_path(folder / ONNX_FILE) as path:
        onnx.save(model, path)
    return folder / ONNX_FILE


def _forget_sources(graph: Any) -> None:
    """Remove the exporter's notes: stack traces with local paths."""
    for item in (*graph.node, *graph.input, *graph.output, *graph.initializer, *graph.value_info):
        del item.metadata_props[:]
        item.doc_string = ""
    del graph.metadata_props[:]


def _point_into(graph: Any, weights: Path) -> None:
    """Replace initialisers by references into a safetensors file.

    The file begins with the length of its header (8 bytes, little-endian). The header is JSON and
    states the place of each tensor after it (github.com/huggingface/safetensors, "Format").
    """
    from onnx import TensorProto, helper

    with weights.open("rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        header = json.loads(file.read(length))
    types = {"F16": TensorProto.FLOAT16, "F32": TensorProto.FLOAT}
    casts = []
    for tensor in graph.initializer:
        place = header.get(tensor.name.removeprefix("embedder."))
        if place is None or place["dtype"] not in types or [*tensor.dims] != place["shape"]:
            continue
        name = tensor.name
        begin, end = place["data_offsets"]
        if place["dtype"] == "F16":
            tensor.name = f"{name}.half"
            casts.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
        tensor.ClearField("raw_data")
        tensor.ClearField("float_data")
        tensor.data_type = types[place["dtype"]]
        tensor.data_location = TensorProto.EXTERNAL
        stated = {"location": weights.name, "offset": 8 + length + begin, "length": end - begin}
        del tensor.external_data[:]
        for key, value in stated.items():
            tensor.external_data.add(key=key, value=str(value))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)

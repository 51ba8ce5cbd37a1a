"""An encoder's network on ONNX Runtime, which needs no torch: exact fp32, or fast int8."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unprompt.encoding.bert_graph import INPUT, bert_graph
from unprompt.encoding.encoder_config import EncoderConfig, EncoderError
from unprompt.parallel import Item, Result, cores, in_order

MAX_TOKENS = 768
"""Most tokens in a batch; larger batches do not fit the processor's cache."""

_REQUIRED = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
_FLOATS = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


class OnnxNetwork:
    """Token ids to pooled embeddings, not yet normalised, on ONNX Runtime.

    The graph is built from the safetensors weights at each start. This takes about half a second
    and needs no cached files, which could become outdated.

    Args:
        config: a BERT encoder with safetensors weights.
        precision: ``fp32`` or ``int8``.

    Raises:
        EncoderError: the model is of another type, or its weights are damaged.
    """

    max_tokens = MAX_TOKENS

    def __init__(self, config: EncoderConfig, precision: str):
        import onnxruntime

        graph = bert_graph(
            config, read_bert_config(config), read_weights(config.weights), precision
        )
        options = onnxruntime.SessionOptions()
        # Each core runs batches of its own: threads that share a batch would wait for each other at
        # every operator.
        options.intra_op_num_threads = 1
        # Higher levels of optimisation would bring back the slow fusion that `bert_graph` avoids.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        self._session = onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"]
        )

    def in_order(self, task: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield the results of ``task``, one batch a core."""
        return in_order(task, items, cores())

    def __call__(self, ids: np.ndarray) -> np.ndarray:
        """Token ids, int64 of shape (n, length), to float32 of shape (n, dim)."""
        (pooled,) = self._session.run(None, {INPUT: ids.astype(np.int32)})
        return np.asarray(pooled)


def is_supported(config: EncoderConfig) -> bool:
    """Whether ONNX Runtime can run the model; torch can run every model."""
    try:
        read_bert_config(config)
    except EncoderError:
        return False
    return True


def read_bert_config(config: EncoderConfig) -> dict[str, Any]:
    """Read the model's ``config.json``.

    Raises:
        EncoderError: the model is not a BERT with safetensors weights.
    """
    if any(path.suffix != ".safetensors" for path in config.weights):
        raise EncoderError(
            f"{config.weights_folder}: only the torch backend reads weights that are not "
            "safetensors; use the torch backend"
        )
    path = config.weights_folder / "config.json"
    bert: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for key, value in _REQUIRED.items():
        # Newer files leave out the position embeddings' type, which is absolute.
        if (found := bert.get(key, value if key.startswith("position") else None)) != value:
            raise EncoderError(
                f"{path}: the onnx backend needs {key} '{value}', not '{found}'; use the torch "
                "backend"
            )
    return bert


def read_weights(paths: Sequence[Path]) -> dict[str, np.ndarray]:
    """Read a model's floating-point tensors by name, from all its safetensors files, as float32.

    Raises:
        EncoderError: a file is damaged or incomplete.
    """
    # `safetensors.numpy` does not read bfloat16, so the bytes are decoded here.
    from safetensors import SafetensorError, deserialize

    weights = {}
    for path in paths:
        try:
            entries = deserialize(path.read_bytes())
        except SafetensorError as error:
            raise EncoderError(
                f"{path}: not a whole safetensors file ({error}); download the model again"
            ) from error
        for name, entry in entries:
            if dtype := _FLOATS.get(entry["dtype"]):
                array = np.frombuffer(entry["data"], dtype).reshape(entry["shape"])
                if entry["dtype"] == "BF16":  # the upper half of a float32
                    array = (array.astype(np.uint32) << 16).view(np.float32)
                weights[name] = array.astype(np.float32, copy=False)
    return weights

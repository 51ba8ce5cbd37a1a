"""An encoder's network on ONNX Runtime, without torch: exact fp32, or fast int8."""

from __future__ import annotations

import numpy as np

from unprompt.encoding.bert import read_config
from unprompt.encoding.bert_graph import INPUT, bert_graph
from unprompt.encoding.encoder_config import Layout
from unprompt.encoding.safetensors_file import read_safetensors
from unprompt.parallel import cores

MAX_TOKENS = 768
"""Tokens in a batch: more leave the processor's cache and are slower (benchmarks/encoding.py)."""


class OnnxNetwork:
    """Token ids to pooled, not yet normalised embeddings, on ONNX Runtime.

    The graph is built from the safetensors weights at each start, in about half a second: less
    than it takes to look after files of a cache, and never stale.

    Args:
        layout: the model; of the BERT family, with safetensors weights.
        precision: ``fp32`` or ``int8``.

    Raises:
        EncoderError: another kind of model, or damaged weights.
    """

    max_tokens = MAX_TOKENS

    def __init__(self, layout: Layout, precision: str):
        import onnxruntime

        config = read_config(layout)
        graph = bert_graph(layout, config, read_safetensors(layout.weights), precision)
        options = onnxruntime.SessionOptions()
        # Fusions beyond the basic ones bring back what `bert_graph` avoids for its slowness.
        # One thread for each batch and a batch for each core: threads that share a batch wait for
        # each other at every operator.
        options.intra_op_num_threads = 1
        self.workers = cores()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        self._session = onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, ids: np.ndarray) -> np.ndarray:
        """Token ids, int64 of shape (n, length), to float32 of shape (n, dim)."""
        (pooled,) = self._session.run(None, {INPUT: ids.astype(np.int32)})
        return np.asarray(pooled)

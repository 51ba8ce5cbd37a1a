"""Build the ONNX graph of a BERT encoder from its weights, without torch.

The graph uses ONNX Runtime's own operators of the domain ``com.microsoft`` (described in its
ContribOperators.md) if they are faster than the standard ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unprompt.encoding.encoder_config import EncoderConfig, EncoderError
from unprompt.encoding.onnx_file import MICROSOFT, model, node

INPUT = "ids"
OUTPUT = "embeddings"


def bert_graph(
    config: EncoderConfig,
    bert: Mapping[str, Any],
    weights: Mapping[str, np.ndarray],
    precision: str,
) -> bytes:
    """Build the encoder with its pooling, for prompts of equal length.

    Args:
        config: the encoder; only its pooling and width are used.
        bert: its ``config.json``, as `onnx_backend.read_bert_config` reads it.
        weights: its float32 tensors by name.
        precision: ``fp32`` or ``int8``. In int8, the matrices of linear layers have one scale for
            each output, and their inputs are quantised at run time with one scale a batch; all
            else is float32.

    Returns:
        An ONNX model: ``ids``, int32 of shape (n, length), to ``embeddings``, float32 of shape
        (n, dim), not normalised.

    Raises:
        EncoderError: weights are missing.
    """
    try:
        graph = _Graph(weights, float(bert["layer_norm_eps"]), precision == "int8")
        hidden = graph.embed()
        for layer in range(bert["num_hidden_layers"]):
            prefix = f"encoder.layer.{layer}."
            hidden = graph.attend(hidden, f"{prefix}attention.", bert["num_attention_heads"])
            hidden = graph.feed_forward(hidden, prefix)
    except KeyError as error:
        raise EncoderError(
            f"{config.weights_folder}: the config or the weights have no {error}; download the "
            "model again"
        ) from error
    graph.pool(hidden, config.pooling)
    inputs = {INPUT: ("int32", ("n", "length"))}
    return model(graph.nodes, graph.constants, inputs, {OUTPUT: ("float32", ("n", config.dim))})


class _Graph:
    """Nodes and constants of a graph; methods take and return names of values."""

    def __init__(self, weights: Mapping[str, np.ndarray], epsilon: float, int8: bool):
        self.weights = {name.removeprefix("bert."): array for name, array in weights.items()}
        self.epsilon = epsilon
        self.int8 = int8
        self.nodes: list[bytes] = []
        self.constants: dict[str, np.ndarray] = {}
        self._quantised: dict[str, list[str]] = {}

    def embed(self) -> str:
        """Add embeddings of word, position and first token type, and normalise."""
        types = self.weights["embeddings.token_type_embeddings.weight"]
        positions = self.weights["embeddings.position_embeddings.weight"] + types[0]
        inputs = [
            INPUT,
            "",  # token types: all tokens have the first, which is added to the positions
            self._weight("embeddings.word_embeddings.weight"),
            self._constant("positions", positions),
            "",
            self._weight("embeddings.LayerNorm.weight"),
            self._weight("embeddings.LayerNorm.bias"),
        ]
        outputs = ["embedded", ""]  # the second output, of a mask, is not used
        self.nodes.append(
            node("EmbedLayerNormalization", inputs, outputs, MICROSOFT, epsilon=self.epsilon)
        )
        return "embedded"

    def attend(self, hidden: str, prefix: str, heads: int) -> str:
        """Self-attention, its output projection, the residual and their normalisation."""
        inputs = [self.linear(hidden, f"{prefix}self.{name}") for name in ("query", "key", "value")]
        attended = self._add("Attention", inputs, q_num_heads=heads, kv_num_heads=heads)
        return self.normalise(attended, hidden, f"{prefix}output.")

    def feed_forward(self, hidden: str, prefix: str) -> str:
        """The feed-forward network of a block, the residual and their normalisation."""
        wide = self.linear(hidden, f"{prefix}intermediate.dense")
        activated = self._add("Gelu", [wide], MICROSOFT)
        return self.normalise(activated, hidden, f"{prefix}output.")

    def normalise(self, value: str, residual: str, prefix: str) -> str:
        """A linear layer of ``value`` plus ``residual``, normalised.

        The fused operator SkipLayerNormalization is slower: it takes 2.1 µs for 384 numbers,
        additions and LayerNormalization take 0.5 µs (ONNX Runtime 1.32).
        """
        total = self._add("Add", [self.linear(value, f"{prefix}dense"), residual])
        scale, shift = (self._weight(f"{prefix}LayerNorm.{part}") for part in ("weight", "bias"))
        return self._add("LayerNormalization", [total, scale, shift], epsilon=self.epsilon)

    def linear(self, value: str, layer: str) -> str:
        """A linear layer of ``value``."""
        matrix, bias = self.weights[f"{layer}.weight"].T, self._weight(f"{layer}.bias")
        if not self.int8:
            product = self._add("MatMul", [value, self._constant(layer, matrix)])
            return self._add("Add", [product, bias])
        if value not in self._quantised:
            outputs = [f"{value}.{part}" for part in ("int8", "scale", "zero")]
            self.nodes.append(node("DynamicQuantizeLinear", [value], outputs))
            self._quantised[value] = outputs
        integers, scale, zero = self._quantised[value]
        scales = np.maximum(np.abs(matrix).max(axis=0), np.finfo(np.float32).tiny) / 127
        quantised = self._constant(f"{layer}.int8", np.rint(matrix / scales).astype(np.int8))
        scales_name = self._constant(f"{layer}.scale", scales.astype(np.float32))
        inputs = [integers, quantised, scale, scales_name, zero, "", bias]
        return self._add("MatMulIntegerToFloat", inputs, MICROSOFT)

    def pool(self, hidden: str, pooling: str) -> None:
        """Add the graph's output: one vector for each prompt."""
        if pooling == "cls":
            first = self._constant("first", np.array(0, dtype=np.int64))
            self.nodes.append(node("Gather", [hidden, first], [OUTPUT], axis=1))
        else:
            axis = self._constant("axis", np.array([1], dtype=np.int64))
            self.nodes.append(node("ReduceMean", [hidden, axis], [OUTPUT], keepdims=0))

    def _weight(self, name: str) -> str:
        return self._constant(name, self.weights[name])

    def _constant(self, name: str, array: np.ndarray) -> str:
        self.constants[name] = array
        return name

    def _add(
        self, op: str, inputs: Sequence[str], domain: str = "", **attributes: int | float
    ) -> str:
        output = f"value{len(self.nodes)}"
        self.nodes.append(node(op, inputs, [output], domain, **attributes))
        return output

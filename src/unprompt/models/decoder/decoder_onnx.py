"""A decoder as an ONNX graph that predicts the next token, with a cache of keys and values.

The graph needs only ONNX Runtime and runs once for each token. Its inputs are ``tokens`` (rows,
new), ``embedding`` (rows, dim), and ``past_keys`` and ``past_values`` (layers, rows, heads, past,
width of a head). In the first run, past is 0 and ``tokens`` are the prefix. Its outputs are the
``logits`` of the next token, (rows, vocabulary), and ``keys`` and ``values``, the past of the next
run.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn

from unprompt.files import atomic_path, write_json
from unprompt.models.decoder.network import DecoderModel
from unprompt.models.decoder.runtime import GRAPH_FILE
from unprompt.models.decoder.tokenizer import save_tokenizer
from unprompt.models.model_folder import CONFIG_FILE


def export_decoder(
    model: DecoderModel, tokenizer: Tokenizer, folder: str | Path, int8: bool = True
) -> Path:
    """Write the graph, the tokenizer and a configuration.

    Args:
        model: the decoder; it is moved to the CPU and set to evaluation mode.
        tokenizer: its vocabulary.
        folder: made if missing.
        int8: store weights of matrices in 8 bits with a scale for each column; activations are
            rounded at run time (ONNX Runtime's dynamic quantisation).

    Returns:
        The path of the graph.

    Raises:
        OutputError: the folder cannot be written.
    """
    folder = Path(folder)
    config = model.config
    network: Any = model
    network.to("cpu").eval()
    # All sizes differ, so that the exporter does not take two axes for the same one.
    shape = (
        config.num_hidden_layers,
        3,
        config.num_attention_heads,
        7,
        config.hidden_size // config.num_attention_heads,
    )
    rows, new, past = (torch.export.Dim(name) for name in ("rows", "new", "past"))
    program = torch.onnx.export(
        _Step(model).eval(),
        (
            torch.zeros(3, 5, dtype=torch.long),
            torch.zeros(3, config.embedding_dim),
            torch.zeros(shape),
            torch.zeros(shape),
        ),
        input_names=["tokens", "embedding", "past_keys", "past_values"],
        output_names=["logits", "keys", "values"],
        dynamic_shapes=({0: rows, 1: new}, {0: rows}, {1: rows, 3: past}, {1: rows, 3: past}),
        dynamo=True,
        verbose=False,
    )
    assert program is not None  # noqa: S101  (None only if a path is given)
    _save(program, folder / GRAPH_FILE, int8)
    save_tokenizer(tokenizer, folder)
    stated = {
        "model_type": config.model_type,
        "encoder": config.encoder,
        "prefix_length": config.prefix_length,
        "context_length": config.context_length,
        "calibration": None,
    }
    write_json(folder / CONFIG_FILE, stated)
    return folder / GRAPH_FILE


def _save(program: Any, path: Path, int8: bool) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = program.model_proto
    for item in (*graph.graph.node, *graph.graph.value_info):
        # The exporter writes stack traces with local paths here.
        del item.metadata_props[:]
        item.doc_string = ""
    with TemporaryDirectory() as scratch, atomic_path(path) as temporary:
        if not int8:
            onnx.save(graph, temporary)
            return
        exact = Path(scratch) / "exact.onnx"
        onnx.save(graph, exact)
        quantize_dynamic(
            exact,
            temporary,
            op_types_to_quantize=["MatMul", "Gemm", "Gather"],
            per_channel=True,
            weight_type=QuantType.QInt8,
        )


class _Past:
    """The cache that `Attention` needs, over plain tensors."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor):
        self._past = keys, values
        self.all: list[tuple[torch.Tensor, torch.Tensor]] = []

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = self._past
        pair = torch.cat([keys[layer], key], dim=2), torch.cat([values[layer], value], dim=2)
        self.all.append(pair)
        return pair


class _Step(nn.Module):
    def __init__(self, model: DecoderModel):
        super().__init__()
        self.model = model

    def forward(
        self,
        tokens: torch.Tensor,
        embedding: torch.Tensor,
        past_keys: torch.Tensor,
        past_values: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        past, new = past_keys.shape[3], tokens.shape[1]
        every = torch.arange(past + new)
        positions = every[past:]
        cache = _Past(past_keys, past_values)
        mask = positions[:, None] >= every
        states = self.model.states(tokens, embedding, positions, mask, cache)
        keys, values = zip(*cache.all, strict=True)
        return self.model.head(states[:, -1]), torch.stack(keys), torch.stack(values)

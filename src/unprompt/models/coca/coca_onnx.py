"""Export CoCa as two ONNX graphs: one encodes images, one predicts the next token.

The graphs need only ONNX Runtime. The first runs once for each image, the second once for each
token:

- ``encoder.onnx``: ``pixels`` (images, 3, size, size) → ``image_keys``, ``image_values``
  (layers, images, heads, tokens, width of a head).
- ``decoder.onnx``: ``input_ids`` and their ``positions`` in the text (images, 1), ``image_keys``,
  ``image_values``, ``past_keys`` and ``past_values`` (layers of both towers, images, heads, past,
  width of a head; past is 0 at the start) → ``logits`` (images, vocabulary), ``keys`` and
  ``values``, the past of the next step.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from unprompt.files import atomic_path
from unprompt.models.coca.kv_cache import KeysValues
from unprompt.models.coca.modeling import CoCaForConditionalGeneration

ENCODER_FILE, DECODER_FILE = "encoder.onnx", "decoder.onnx"


def export_onnx(model: CoCaForConditionalGeneration, folder: str | Path) -> None:
    """Write both graphs.

    Args:
        model: on a CPU, in fp32, not packed, with as many text heads as decoder heads.
        folder: created if missing.

    Raises:
        ValueError: the two text towers have different numbers of heads.
        OutputError: the folder cannot be written.
    """
    config = model.config
    if config.text_heads != config.decoder_heads:
        raise ValueError(
            "one tensor holds the keys of both text towers, so they need the same number of heads"
        )
    width = config.hidden_size // config.decoder_heads
    layers = config.text_layers + config.decoder_layers
    past = torch.zeros(layers, 2, config.decoder_heads, 3, width)
    pixels = torch.zeros(2, 3, config.image_size, config.image_size)
    encoder, decoder = _Encoder(model).eval(), _Decoder(model).eval()
    with torch.no_grad():
        image_keys, image_values = encoder(pixels)
    # If the same tensor were given twice, the exporter would make one input of it; so give copies.
    token = torch.zeros(2, 1, dtype=torch.long)
    images, length = torch.export.Dim("images"), torch.export.Dim("past")
    _export(
        encoder,
        (pixels,),
        Path(folder) / ENCODER_FILE,
        ["pixels"],
        ["image_keys", "image_values"],
        ({0: images},),
    )
    _export(
        decoder,
        (token, token.clone(), image_keys, image_values, past, past.clone()),
        Path(folder) / DECODER_FILE,
        ["input_ids", "positions", "image_keys", "image_values", "past_keys", "past_values"],
        ["logits", "keys", "values"],
        (
            {0: images},
            {0: images},
            {1: images},
            {1: images},
            {1: images, 3: length},
            {1: images, 3: length},
        ),
    )


def _export(
    module: nn.Module,
    arguments: tuple[torch.Tensor, ...],
    path: Path,
    inputs: list[str],
    outputs: list[str],
    shapes: tuple[dict[int, Any], ...],
) -> None:
    program = torch.onnx.export(
        module,
        arguments,
        input_names=inputs,
        output_names=outputs,
        dynamic_shapes=shapes,
        dynamo=True,
        verbose=False,
    )
    assert program is not None  # noqa: S101  (None only if a path is given)
    with atomic_path(path) as temporary:
        program.save(str(temporary), external_data=False)


class _Encoder(nn.Module):
    def __init__(self, model: CoCaForConditionalGeneration):
        super().__init__()
        self.image, self.blocks = model.model.image, model.model.decoder.cross_blocks

    def forward(self, pixels: torch.Tensor) -> KeysValues:
        _, states = self.image(pixels)
        blocks: Any = self.blocks
        pairs = [block.keys_values(states) for block in blocks]
        return torch.stack([key for key, _ in pairs]), torch.stack([value for _, value in pairs])


class _Past:
    """The part of `CoCaCache` that `SelfAttention` uses, on plain tensors."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor):
        self._past = keys, values
        self.all: list[KeysValues] = []

    def append(self, pair: torch.Tensor, layer: int) -> KeysValues:
        keys, values = (
            torch.cat([past[layer], new], dim=2)
            for past, new in zip(self._past, pair.permute(2, 0, 3, 1, 4), strict=True)
        )
        self.all.append((keys, values))
        return keys, values


class _Decoder(nn.Module):
    def __init__(self, model: CoCaForConditionalGeneration):
        super().__init__()
        self.text, self.decoder, self.head = model.model.text, model.model.decoder, model.head

    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        image_keys: torch.Tensor,
        image_values: torch.Tensor,
        past_keys: torch.Tensor,
        past_values: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        past: Any = _Past(past_keys, past_values)
        x = self.text(input_ids, positions, cache=past)
        towers: Any = self.decoder
        for layer, (block, cross) in enumerate(
            zip(towers.self_blocks, towers.cross_blocks, strict=True)
        ):
            images = image_keys[layer], image_values[layer]
            x = cross(block(x, past_key_values=past), images)
        logits = self.head(towers.norm(x))[:, 0]
        keys, values = zip(*past.all, strict=True)
        return logits, torch.stack(keys), torch.stack(values)

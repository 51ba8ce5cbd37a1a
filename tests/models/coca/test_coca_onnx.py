"""The ONNX graphs foresee what the model foresees."""

import numpy as np
import onnxruntime
import pytest
import torch

from tests.models.coca.conftest import CONFIG, texts
from unprompt.models.coca import CoCaConfig, CoCaForConditionalGeneration
from unprompt.models.coca.coca_onnx import export_onnx

# Tracing takes long for every layer: as few as tell the layers of a tower and the towers apart.
FEW = CoCaConfig(
    **CONFIG.to_diff_dict() | {"vision_layers": 1, "text_layers": 1, "decoder_layers": 2}
)


def test_the_graphs_step_by_step(pixels, tmp_path):
    torch.manual_seed(0)
    model = CoCaForConditionalGeneration(FEW).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(2)
    export_onnx(model, tmp_path)
    encoder = onnxruntime.InferenceSession(tmp_path / "encoder.onnx")
    decoder = onnxruntime.InferenceSession(tmp_path / "decoder.onnx")
    ids = texts([16, 16, 16])
    with torch.no_grad():
        expected = model(ids, pixels).logits.numpy()
    image_keys, image_values = encoder.run(None, {"pixels": pixels.numpy()})
    heads, width = FEW.decoder_heads, FEW.hidden_size // FEW.decoder_heads
    layers = FEW.text_layers + FEW.decoder_layers
    keys = values = np.zeros((layers, 3, heads, 0, width), np.float32)
    for step in range(16):
        logits, keys, values = decoder.run(
            None,
            {
                "input_ids": ids[:, step : step + 1].numpy(),
                "positions": np.full((3, 1), step),
                "image_keys": image_keys,
                "image_values": image_values,
                "past_keys": keys,
                "past_values": values,
            },
        )
        assert keys.shape[3] == step + 1
        np.testing.assert_allclose(logits, expected[:, step], atol=1e-4, rtol=1e-4)


def test_towers_of_different_heads_are_refused(tmp_path):
    other = CoCaConfig(**CONFIG.to_diff_dict() | {"text_heads": 2})
    with pytest.raises(ValueError, match="need the same number of heads"):
        export_onnx(CoCaForConditionalGeneration(other), tmp_path)

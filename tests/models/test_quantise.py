from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from tests.models.conftest import SIZE
from unprompt.errors import UnpromptError
from unprompt.models.backbones import BackboneConfig, create_backbone
from unprompt.models.embedder import Embedder, EmbedderConfig
from unprompt.models.export import export_onnx
from unprompt.models.preprocessing import Preprocessing
from unprompt.models.quantise import quantise_onnx
from unprompt.predicting.model import OnnxModel


@pytest.fixture
def model(shared) -> Embedder:
    """The real backbone, small in pixels, with a random head."""
    config = BackboneConfig("timm/mobilenet_edgetpu_100", {"pad_type": "same"})
    weights = shared / "backbones" / "mobilenet_edgetpu_100.safetensors"
    backbone = create_backbone(config, checkpoint=weights, size=2 * SIZE)
    half = (0.5, 0.5, 0.5)
    torch.manual_seed(0)
    return Embedder(EmbedderConfig(config), backbone, Preprocessing(2 * SIZE, half, half)).eval()


def pictures(count: int, seed: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).integers(0, 256, (count, 3, 8, 8), dtype=np.uint8)
    return drawn.repeat(8, axis=2).repeat(8, axis=3)


def test_integers_answer_nearly_as_floats_do(model, tmp_path):
    path = export_onnx(model, tmp_path)
    before = OnnxModel(tmp_path, "floats").run(pictures(8, 1))[0]
    size = path.with_name("model.safetensors").stat().st_size
    assert quantise_onnx(tmp_path, [pictures(4, seed) for seed in range(2, 6)]) == path
    assert not path.with_name("model.safetensors").exists()
    after = OnnxModel(tmp_path, "integers").run(pictures(8, 1))[0]
    assert (before * after).sum(axis=1).mean() > 0.95
    assert path.stat().st_size < size
    graph = onnx.load(path).graph
    kernels = [tensor for tensor in graph.initializer if len(tensor.dims) == 4]
    assert kernels
    assert all(tensor.data_type == onnx.TensorProto.INT8 for tensor in kernels)
    counts = {len(OnnxModel(tmp_path, "x").run(pictures(n, 7))[0]) for n in (1, 3)}
    assert counts == {1, 3}


def test_without_pictures_the_folder_stays_as_it_was(model, tmp_path):
    path = export_onnx(model, tmp_path)
    before = path.read_bytes()
    with pytest.raises(UnpromptError, match="int8 needs pictures"):
        quantise_onnx(tmp_path, [])
    assert path.read_bytes() == before
    assert path.with_name("model.safetensors").exists()

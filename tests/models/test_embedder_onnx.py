from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from tests.models.conftest import SIZE
from tests.models.test_embedder import CLASSES, MLP, make
from unprompt.models.backbones import BackboneConfig, create_backbone
from unprompt.models.embedder import Embedder, EmbedderConfig
from unprompt.models.embedder_onnx import export_onnx
from unprompt.models.preprocessing import Preprocessing
from unprompt.predicting.embedding_model import OnnxModel


def run(path, pixels: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    embeddings, features = session.run(["embedding", "features"], {"pixels": pixels.numpy()})
    return embeddings, features


def size_of(path: Path) -> int:
    """Of the graph and the weights beside it, in bytes."""
    return path.stat().st_size + path.with_name("model.safetensors").stat().st_size


def agree(model: Embedder, path, pixels: torch.Tensor, difference: float) -> None:
    embeddings, features = run(path, pixels)
    with torch.no_grad():
        expected = model(pixels).numpy()
        inner = model.features(pixels).numpy()
    assert embeddings.dtype == features.dtype == np.float32
    assert np.abs(embeddings - expected).max() < difference
    assert (embeddings * expected).sum(axis=1).min() > 0.9999
    # Batch norms are folded into the convolutions, and these then rounded to 11 bits.
    assert np.abs(features - inner).max() < 5 * difference * max(1.0, np.abs(inner).max())


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Embedder, Path]:
    """A model with a wide head, and the folder of its export."""
    model = make(head=MLP)
    with torch.no_grad():  # statistics beyond float16, as real batch norms may have
        norm = model.head[2]
        norm.running_var.fill_(1e6)
        norm.weight.fill_(1e3)
    folder = tmp_path_factory.mktemp("onnx") / "new" / "folder"
    export_onnx(model, folder)
    return model, folder


def test_the_graph_agrees_with_torch_for_any_batch(exported, pixels):
    model, folder = exported
    agree(model, folder / "model.onnx", pixels, 1e-3)
    for count in (1, 2, 7):
        embeddings, features = run(folder / "model.onnx", pixels[:1].repeat(count, 1, 1, 1))
        assert len(embeddings) == len(features) == count
        assert np.ptp(embeddings, axis=0).max() < 1e-5


def test_a_transformer_agrees_too_and_nothing_is_printed(tmp_path, pixels, capsys):
    model = make("timm-transformer")
    path = export_onnx(model, tmp_path)
    assert capsys.readouterr().out == ""
    agree(model, path, pixels, 1e-3)


def test_a_head_of_classes_agrees_too(tmp_path, pixels):
    model = make(head=CLASSES)
    agree(model, export_onnx(model, tmp_path), pixels, 1e-3)


def test_half_precision_is_of_matrices_only_and_halves_the_file(exported, tmp_path, pixels):
    model, folder = exported
    full, half = export_onnx(model, tmp_path, half=False), folder / "model.onnx"
    agree(model, full, pixels, 1e-4)
    assert size_of(half) < 0.65 * size_of(full)

    def halved(path: Path) -> list[onnx.TensorProto]:
        stored = onnx.load(path).graph.initializer
        return [tensor for tensor in stored if tensor.data_type == onnx.TensorProto.FLOAT16]

    assert not halved(full)
    assert halved(half)
    assert all(len(tensor.dims) > 1 for tensor in halved(half))


def test_the_file_holds_no_path_of_this_machine(exported):
    content = (exported[1] / "model.onnx").read_bytes()
    assert b"site-packages" not in content
    assert b".py" not in content


def test_the_folder_runs_without_torch(exported, pixels):
    model, folder = exported
    loaded = OnnxModel(folder, "exported")
    assert loaded.preprocessing == model.preprocessing
    assert loaded.encoder == model.architecture.encoder
    expected = model(pixels).detach().numpy()
    np.testing.assert_allclose(loaded.run(pixels.numpy())[0], expected, atol=1e-3)


def test_the_real_backbone_keeps_its_answers(tmp_path, shared):
    config = BackboneConfig("timm/mobilenet_edgetpu_100", {"pad_type": "same"})
    weights = shared / "backbones" / "mobilenet_edgetpu_100.safetensors"
    backbone = create_backbone(config, checkpoint=weights, size=2 * SIZE)
    half = (0.5, 0.5, 0.5)
    torch.manual_seed(0)
    model = Embedder(EmbedderConfig(config), backbone, Preprocessing(2 * SIZE, half, half)).eval()
    path = export_onnx(model, tmp_path)
    drawn = np.random.default_rng(3).integers(0, 256, (4, 3, 8, 8), dtype=np.uint8)
    pixels = torch.from_numpy(drawn.repeat(8, axis=2).repeat(8, axis=3))
    agree(model, path, pixels, 1e-3)
    assert size_of(path) < 10e6

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from tests.models.test_embedder import CLASSES, make
from unprompt.errors import UnpromptError
from unprompt.models.embedder import Embedder
from unprompt.models.embedder_onnx import export_onnx
from unprompt.predicting.embedding_model import OnnxModel


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """Smooth pixels of 40 pictures, which is no multiple of a batch."""
    drawn = np.random.default_rng(3).integers(0, 256, (40, 3, 4, 4), dtype=np.uint8)
    return drawn.repeat(8, axis=2).repeat(8, axis=3)


@pytest.fixture(scope="module")
def exported(tmp_path_factory, pictures):
    """A model with batch norms and residuals, its export in 8 bits, and what that printed."""
    model = make(head=CLASSES)
    return model, export_onnx(model, tmp_path_factory.mktemp("int8"), int8=pictures)


def test_the_graph_agrees_with_torch_nearly(exported, pictures):
    model, path = exported
    found, features = OnnxModel(path.parent, "int8").run(pictures)
    with torch.no_grad():
        expected = model(torch.from_numpy(pictures)).numpy()
        inner = model.features(torch.from_numpy(pictures)).numpy()
    assert (found * expected).sum(axis=1).mean() > 0.98
    assert np.corrcoef(features.ravel(), inner.ravel())[0, 1] > 0.98
    assert np.abs(found - expected).max() > 1e-6, "nothing was rounded"
    one = OnnxModel(path.parent, "int8").run(pictures[:1])[0]
    np.testing.assert_allclose(one, found[:1], atol=1e-5)


def test_convolutions_are_in_8_bits_and_the_head_is_as_it_was(exported):
    _, path = exported
    stored = onnx.load(path, load_external_data=False)
    kinds = {tensor.name: tensor.data_type for tensor in stored.graph.initializer}
    kernels = [kind for name, kind in kinds.items() if ".conv" in name and "quantized" in name]
    assert kernels.count(onnx.TensorProto.INT8) > 4
    heads = [kind for name, kind in kinds.items() if "embedder.head" in name and "weight" in name]
    assert set(heads) == {onnx.TensorProto.FLOAT16}
    content = path.read_bytes()
    assert b"site-packages" not in content
    # The weights beside the graph are the exact ones still.
    again = Embedder.from_pretrained(path.parent)
    assert torch.is_floating_point(next(again.parameters()))


def test_nothing_is_printed_and_few_pictures_do(tmp_path, pictures, capfd):
    export_onnx(make(), tmp_path, int8=pictures[:3])
    assert capfd.readouterr().out == ""
    assert len(OnnxModel(tmp_path, "int8").run(pictures)[0]) == 40


def test_a_transformer_is_refused_and_leaves_no_half_of_a_model(tmp_path, pictures):
    with pytest.raises(UnpromptError, match="networks of convolutions"):
        export_onnx(make("timm-transformer"), tmp_path / "new", int8=pictures)
    assert not (tmp_path / "new").exists()

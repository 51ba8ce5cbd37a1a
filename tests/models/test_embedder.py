from __future__ import annotations

import json
import shutil

import pytest
import torch

from tests.models.conftest import SIZE
from tests.models.test_backbones import TINY
from unprompt.errors import ModelNotFoundError, OutputError, UnpromptError
from unprompt.models.backbones import BackboneConfig, create_backbone
from unprompt.models.embedder import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    Embedder,
    EmbedderConfig,
)
from unprompt.models.heads import HeadConfig
from unprompt.models.model_folder import PREPROCESSOR_FILE
from unprompt.models.preprocessing import Preprocessing

LINEAR = HeadConfig()
MLP = HeadConfig("mlp", hidden=24, dropout=0.1)
CLASSES = HeadConfig("classes", classes=5)
HEADS = pytest.mark.parametrize("head", [LINEAR, MLP, CLASSES], ids=["linear", "mlp", "classes"])


def make(kind: str = "timm-convolutions", head: HeadConfig = LINEAR, dim: int = 12) -> Embedder:
    torch.manual_seed(0)
    config, _ = TINY[kind]
    backbone = create_backbone(config, pretrained=False, size=SIZE)
    model = Embedder(EmbedderConfig(config, head, dim), backbone)
    with torch.no_grad():  # so that a round trip that forgets the statistics is seen
        for module in model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.running_mean.uniform_(-1, 1)
                module.running_var.uniform_(0.5, 2)
    return model.eval()


@HEADS
@pytest.mark.parametrize("kind", TINY)
def test_a_round_trip_is_exact(tmp_path, pixels, kind, head):
    model = make(kind, head)
    model.save_pretrained(tmp_path)
    again = Embedder.from_pretrained(tmp_path)
    assert again.architecture == model.architecture
    assert again.preprocessing == model.preprocessing
    assert not again.training
    assert torch.equal(again(pixels), model(pixels))
    assert json.loads((tmp_path / CONFIG_FILE).read_text())["model_type"] == "unprompt-embedder"


@HEADS
def test_shapes_types_and_norms(pixels, head):
    model = make(head=head)
    features, embeddings = model.features(pixels), model(pixels)
    assert features.shape == (3, 96)
    assert embeddings.shape == (3, 12)
    assert embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(model.embed(features), embeddings)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(pixels).dtype == torch.float32


def test_pixels_are_normalised_as_the_preprocessing_says(pixels):
    model = make()
    stated = Preprocessing(SIZE, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    other = Embedder(model.architecture, model.backbone, stated).eval()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (stated.mean, stated.std))
    expected = model.backbone((pixels / 255 - mean) / std)
    torch.testing.assert_close(other.features(pixels), expected, rtol=1e-4, atol=1e-5)


def test_a_transformers_model_is_loaded_without_the_folder_it_came_from(tmp_path, pixels):
    from transformers import ViTConfig, ViTModel

    source, saved = tmp_path / "vit", tmp_path / "model"
    settings = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ViTModel(ViTConfig(image_size=SIZE, patch_size=8, **settings)).save_pretrained(source)
    backbone = create_backbone(BackboneConfig(f"hf/{source}"))
    model = Embedder(EmbedderConfig(backbone.config), backbone).eval()
    model.save_pretrained(saved)
    shutil.rmtree(source)
    assert torch.equal(Embedder.from_pretrained(saved)(pixels), model(pixels))


def test_no_such_model_is_one_clear_line(offline, tmp_path):
    for name in ("someone/model-that-is-not-here", str(tmp_path / "nowhere"), "a/b/c"):
        with pytest.raises(
            ModelNotFoundError, match="no such folder, and it cannot be downloaded"
        ) as error:
            Embedder.from_pretrained(name)
        assert name in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(ModelNotFoundError, match=r"config\.json is missing"):
        Embedder.from_pretrained(tmp_path)


def test_folders_that_are_damaged(tmp_path):
    model = make()

    def broken(message: str, kind: type[UnpromptError] = UnpromptError, device: str = "cpu"):
        with pytest.raises(kind, match=message) as caught:
            Embedder.from_pretrained(tmp_path, device)
        assert "\n" not in str(caught.value)
        model.save_pretrained(tmp_path)

    model.save_pretrained(tmp_path)
    (tmp_path / WEIGHTS_FILE).unlink()
    broken(r"model\.safetensors does not fit")
    whole = (tmp_path / WEIGHTS_FILE).read_bytes()
    (tmp_path / WEIGHTS_FILE).write_bytes(whole[: len(whole) // 2])
    broken(r"model\.safetensors does not fit")
    (tmp_path / WEIGHTS_FILE).write_bytes(b"")
    broken(r"model\.safetensors does not fit")
    (tmp_path / PREPROCESSOR_FILE).unlink()
    broken(r"preprocessor_config\.json is missing", ModelNotFoundError)
    (tmp_path / CONFIG_FILE).write_text("{")
    broken(r"config\.json is damaged")
    (tmp_path / CONFIG_FILE).write_text('{"model_type": "bert"}')
    broken("not an embedder")
    (tmp_path / CONFIG_FILE).write_text("[]")
    broken(r"config\.json is damaged.*no JSON object")
    (tmp_path / CONFIG_FILE).write_text('{"model_type": "unprompt-embedder"}')
    broken(r"config\.json is damaged.*it states no 'backbone'")
    stated = json.loads((tmp_path / CONFIG_FILE).read_text())
    (tmp_path / CONFIG_FILE).write_text(json.dumps(stated | {"dim": 13}))
    broken(r"model\.safetensors does not fit.*size mismatch")
    broken("device 'toaster' cannot be used", device="toaster")


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        make().save_pretrained(tmp_path / "file")

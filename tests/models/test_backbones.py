from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.models.conftest import SIZE
from unprompt.errors import ModelNotFoundError, UnpromptError
from unprompt.models.backbones import BackboneConfig, create_backbone, load_classifier

_TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": SIZE,
    "patch_size": 8,
}
OPEN_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {
        "image_size": SIZE,
        "layers": 1,
        "width": 32,
        "patch_size": 8,
        "head_width": 16,
    },
}
TINY = {
    "timm-convolutions": (BackboneConfig("timm/test_resnet"), 96),
    "timm-transformer": (BackboneConfig("timm/test_vit"), 64),
    "timm-fixed-size": (BackboneConfig("timm/vit_tiny_patch16_224", {"depth": 1}), 192),
    "hf-vit": (BackboneConfig("hf/x", {"model_type": "vit", **_TINY}), 32),
    "hf-clip": (
        BackboneConfig("hf/x", {"model_type": "clip_vision_model", "projection_dim": 8, **_TINY}),
        32,
    ),
    "hf_clip": (
        BackboneConfig(
            "hf_clip/x", {"model_type": "clip_vision_model", "projection_dim": 8, **_TINY}
        ),
        8,
    ),
    "hf-siglip": (BackboneConfig("hf/x", {"model_type": "siglip_vision_model", **_TINY}), 32),
    "hf-resnet": (
        BackboneConfig(
            "hf/x",
            {
                "model_type": "resnet",
                "embedding_size": 8,
                "hidden_sizes": [8, 16],
                "depths": [1, 1],
                "layer_type": "basic",
            },
        ),
        16,
    ),
    "open_clip-transformer": (BackboneConfig("open_clip/x", OPEN_CLIP), 16),
    "open_clip-resnet": (
        BackboneConfig(
            "open_clip/x",
            {"embed_dim": 16, "vision_cfg": {"image_size": SIZE, "layers": [1] * 4, "width": 8}},
        ),
        16,
    ),
}
"""A small random backbone of each kind, and the width of its features."""


@pytest.mark.parametrize("kind", TINY)
def test_every_kind_gives_features_and_can_be_built_again(kind):
    config, width = TINY[kind]
    backbone = create_backbone(config, pretrained=False, size=SIZE).eval()
    batch = torch.randn(2, 3, SIZE, SIZE)
    features = backbone(batch)
    assert features.shape == (2, width) == (2, backbone.dim)
    assert backbone.preprocessing.size == SIZE
    stated = json.loads(json.dumps(backbone.config.arguments))
    again = create_backbone(BackboneConfig(config.name, stated), pretrained=False, size=SIZE).eval()
    again.load_state_dict(backbone.state_dict())
    torch.testing.assert_close(again(batch), features, rtol=0, atol=0)


def test_building_leaves_the_mode_and_the_statistics_alone():
    backbone = create_backbone(BackboneConfig("timm/test_resnet"), pretrained=False, size=SIZE)
    assert backbone.network.training
    means = [v for k, v in backbone.state_dict().items() if k.endswith("running_mean")]
    assert means
    assert all((mean == 0).all() for mean in means)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("timm/mobilnet_edgetpu_100", "mobilenet_edgetpu_100"),
        ("open_clip/ViT-B-33", "ViT-B-32"),
    ],
)
def test_an_unknown_name_gives_the_near_ones(name, near):
    with pytest.raises(ModelNotFoundError, match=f"knows no such model; near: {near}"):
        create_backbone(BackboneConfig(name))


@pytest.mark.parametrize("name", ["resnet50", "torchvision/resnet50", "timm/", "hf/"])
def test_an_unknown_library_names_the_known_ones(name):
    with pytest.raises(UnpromptError, match=r"must be one of timm/…, hf/…, hf_clip/…, open_clip/…"):
        create_backbone(BackboneConfig(name))


@pytest.mark.parametrize(
    "name",
    [
        "timm/test_resnet.r160_in1k",
        "hf/someone/vit-that-is-not-here",
        "open_clip/RN50:openai",
        "open_clip/hf-hub:someone/clip-that-is-not-here",
        "open_clip/local-dir:nowhere",
        "hf/./no/such/folder",
        "timm/test_resnet.no_such_tag",
    ],
)
def test_weights_that_cannot_be_had_are_one_clear_line(offline, monkeypatch, tmp_path, name):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFoundError, match="could not be loaded") as caught:
        create_backbone(BackboneConfig(name))
    message = str(caught.value)
    assert name in message
    assert "\n" not in message
    assert "the hub can be reached" in message


def test_wrong_arguments_and_sizes_are_one_clear_line():
    with pytest.raises(ModelNotFoundError, match="unexpected keyword argument 'colour'"):
        create_backbone(BackboneConfig("timm/test_resnet", {"colour": 3}), pretrained=False)
    text = BackboneConfig("hf/x", {"model_type": "bert", **_TINY})
    with pytest.raises(ModelNotFoundError, match="could not be loaded"):
        create_backbone(text, pretrained=False, size=SIZE)


def test_a_transformers_folder_loads_its_weights_and_its_preprocessing(tmp_path):
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    model = ViTModel(ViTConfig(**_TINY)).eval()
    model.save_pretrained(tmp_path)
    ViTImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]).save_pretrained(
        tmp_path
    )
    backbone = create_backbone(BackboneConfig(f"hf/{tmp_path}")).eval()
    assert backbone.preprocessing.mean == (0.1, 0.2, 0.3)
    assert backbone.preprocessing.std == (0.4, 0.5, 0.6)
    batch = torch.randn(2, 3, SIZE, SIZE)
    torch.testing.assert_close(backbone(batch), model(batch).pooler_output)
    larger = create_backbone(BackboneConfig(f"hf/{tmp_path}"), size=48)
    assert larger.preprocessing.size == 48
    assert larger(torch.randn(2, 3, 48, 48)).shape == backbone(batch).shape


def test_the_image_tower_of_a_transformers_clip(tmp_path):
    from transformers import CLIPConfig, CLIPModel

    text = {k: v for k, v in _TINY.items() if k not in ("image_size", "patch_size")}
    config = CLIPConfig(
        vision_config=_TINY, text_config=text | {"vocab_size": 50}, projection_dim=8
    )
    model = CLIPModel(config).eval()
    model.save_pretrained(tmp_path)
    backbone = create_backbone(BackboneConfig(f"hf/{tmp_path}")).eval()
    assert backbone.preprocessing.mean == (0.485, 0.456, 0.406)
    batch = torch.randn(2, 3, SIZE, SIZE)
    expected = model.vision_model(batch).pooler_output
    torch.testing.assert_close(backbone(batch), expected)


def test_an_open_clip_folder_loads_its_weights(tmp_path):
    import open_clip
    from safetensors.torch import save_file

    text = {"vocab_size": 64, "width": 16, "heads": 1, "layers": 1, "context_length": 8}
    model = open_clip.CLIP(text_cfg=open_clip.CLIPTextCfg(**text), **_vision()).eval()
    stated = {"model_cfg": OPEN_CLIP | {"text_cfg": text}, "preprocess_cfg": {}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(stated))
    weights = {k: v.contiguous() for k, v in model.state_dict().items()}
    save_file(weights, tmp_path / "open_clip_model.safetensors")
    backbone = create_backbone(BackboneConfig(f"open_clip/local-dir:{tmp_path}")).eval()
    batch = torch.randn(2, 3, SIZE, SIZE)
    torch.testing.assert_close(backbone(batch), model.visual(batch))


def _vision() -> dict:
    import open_clip

    return {"embed_dim": 16, "vision_cfg": open_clip.CLIPVisionCfg(**OPEN_CLIP["vision_cfg"])}


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_checkpoint_loads_and_its_classifier_is_left_out(tmp_path, suffix):
    import timm
    from safetensors.torch import save_file

    network = timm.create_model("test_resnet", num_classes=7).eval()
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save(network.state_dict(), path)
    else:
        save_file(network.state_dict(), path)
    backbone = create_backbone(BackboneConfig("timm/test_resnet"), checkpoint=path, size=SIZE)
    batch = torch.randn(2, 3, SIZE, SIZE)
    expected = network.forward_head(network.forward_features(batch), pre_logits=True)
    torch.testing.assert_close(backbone.eval()(batch), expected)


def test_position_embeddings_of_a_checkpoint_are_resized(tmp_path):
    import timm
    from safetensors.torch import save_file

    path = tmp_path / "vit.safetensors"
    save_file(timm.create_model("test_vit", img_size=64).state_dict(), path)
    backbone = create_backbone(BackboneConfig("timm/test_vit"), checkpoint=path, size=SIZE)
    assert backbone.eval()(torch.zeros(1, 3, SIZE, SIZE)).shape == (1, 64)


class Evil:
    def __reduce__(self):
        return (print, ("arbitrary code",))


def test_checkpoints_that_do_not_fit(tmp_path, capsys):
    import timm
    from safetensors.torch import save_file

    other = tmp_path / "other.safetensors"
    save_file(timm.create_model("test_convnext").state_dict(), other)
    resnet = BackboneConfig("timm/test_resnet")
    with pytest.raises(UnpromptError, match=r"other\.safetensors does not fit ResNet: it lacks"):
        create_backbone(resnet, checkpoint=other)
    wider = timm.create_model("test_resnet").state_dict()
    wider["conv1.0.weight"] = torch.zeros(3, 3, 3, 3)
    save_file(wider, other)
    with pytest.raises(UnpromptError, match=r"does not fit the backbone .*size mismatch"):
        create_backbone(resnet, checkpoint=other)
    other.write_bytes(b"no weights")
    with pytest.raises(UnpromptError, match="does not fit the backbone"):
        create_backbone(resnet, checkpoint=other)
    evil = tmp_path / "evil.pt"
    evil.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UnpromptError, match="does not fit the backbone"):
        create_backbone(resnet, checkpoint=evil)
    assert "arbitrary code" not in capsys.readouterr().out
    with pytest.raises(ModelNotFoundError, match="no such file"):
        create_backbone(resnet, checkpoint=tmp_path / "nowhere.pt")
    with pytest.raises(UnpromptError, match=r"works with timm/… only"):
        create_backbone(BackboneConfig("hf/x"), checkpoint=evil)


@pytest.mark.parametrize(
    ("name", "arguments", "classifier"),
    [
        ("mobilenet_edgetpu_100", {"pad_type": "same"}, True),
        ("tf_efficientnet_lite0", {}, False),
    ],
)
def test_the_real_weights_give_timms_own_features(shared, name, arguments, classifier):
    import timm
    from safetensors.torch import load_file

    path = shared / "backbones" / f"{name}.safetensors"
    network = timm.create_model(name, num_classes=1000 if classifier else 0, **arguments).eval()
    network.load_state_dict(load_file(path), strict=True)
    config = BackboneConfig(f"timm/{name}", arguments)
    backbone = create_backbone(config, checkpoint=path, size=96).eval()
    drawn = np.random.default_rng(2).integers(0, 256, (120, 100, 3), dtype=np.uint8)
    pixels = torch.from_numpy(backbone.preprocessing(Image.fromarray(drawn)))[None] / 127.5 - 1
    with torch.no_grad():
        expected = network.forward_head(network.forward_features(pixels), pre_logits=True)
        found = backbone(pixels)
    assert found.shape == (1, 1280)
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_classifier_that_a_checkpoint_holds(shared, tmp_path):
    config = BackboneConfig("timm/mobilenet_edgetpu_100", {"pad_type": "same"})
    weights = shared / "backbones" / "mobilenet_edgetpu_100.safetensors"
    classifier = load_classifier(config, checkpoint=weights)
    assert classifier.weight.shape == (1000, 1280)
    stored = load_file(weights)["classifier.weight"].float()
    torch.testing.assert_close(classifier.weight.detach(), stored)
    bare = tmp_path / "bare.safetensors"
    kept = {k: v for k, v in load_file(weights).items() if not k.startswith("classifier")}
    save_file(kept, bare)
    with pytest.raises(UnpromptError, match=r"lacks 2 of .* tensors, classifier\.weight"):
        load_classifier(config, checkpoint=bare)


def test_backbones_without_a_linear_classifier():
    with pytest.raises(UnpromptError, match="only backbones of timm have a classifier"):
        load_classifier(BackboneConfig("hf/some/model"))
    with pytest.raises(UnpromptError, match="has no linear classifier"):
        load_classifier(BackboneConfig("timm/test_resnet", {"num_classes": 0}), pretrained=False)

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.models.conftest import SHARED_DIM
from unprompt.errors import ModelNotFoundError, UnpromptError
from unprompt.models.backbones import BackboneConfig, create_backbone
from unprompt.models.text_towers import create_text_tower

PROMPTS = ["a red fox", "", "a much longer prompt, " * 40, "a red fox", "émigré 狐 — ✨", "a dog"]


@pytest.fixture(params=["open_clip_pair", "hf_clip_pair"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


def test_features_are_of_unit_norm_and_do_not_depend_on_the_batch(name):
    tower = create_text_tower(name)
    features = tower.features(PROMPTS)
    assert features.shape == (len(PROMPTS), SHARED_DIM)
    assert features.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(tower.features(PROMPTS, batch_size=1), features, atol=1e-5)
    assert np.abs(features[0] - features[5]).max() > 1e-3


def test_both_towers_end_in_the_space_of_the_model(name, pixels):
    """The image features are those that the library's own model gives."""
    backbone = create_backbone(BackboneConfig(name))
    assert backbone.dim == SHARED_DIM
    values = pixels.float() / 255
    with torch.no_grad():
        ours = backbone.eval()(values)
        library, _, place = name.partition("/")
        if library == "open_clip":
            import open_clip

            model = open_clip.create_model(place).eval()
            theirs = model.encode_image(values)
            tokens = open_clip.get_tokenizer(place)(PROMPTS)
            texts = model.encode_text(tokens)
        else:
            from transformers import AutoTokenizer, CLIPModel

            model = CLIPModel.from_pretrained(place).eval()
            theirs = model.get_image_features(values).pooler_output
            tokens = AutoTokenizer.from_pretrained(place)(
                PROMPTS, padding=True, truncation=True, return_tensors="pt"
            )
            texts = model.get_text_features(**tokens).pooler_output
    torch.testing.assert_close(ours, theirs)
    found = create_text_tower(name).features(PROMPTS)
    np.testing.assert_allclose(found, F.normalize(texts, dim=-1).numpy(), atol=1e-5)


def test_clips_tokens_are_the_same_in_both_libraries(open_clip_pair, hf_clip_pair):
    import open_clip
    from transformers import AutoTokenizer

    one = open_clip.get_tokenizer(open_clip_pair.partition("/")[2])("a red fox, in the snow")
    other = AutoTokenizer.from_pretrained(hf_clip_pair.partition("/")[2])("a red fox, in the snow")
    assert one[0, : len(other["input_ids"])].tolist() == other["input_ids"]


def test_models_without_a_text_tower(offline, tmp_path):
    message = r"'timm/resnet18' has no text tower; name a model with the prefix hf_clip"
    with pytest.raises(UnpromptError, match=message):
        create_text_tower("timm/resnet18")
    with pytest.raises(ModelNotFoundError, match="could not be loaded"):
        create_text_tower("hf_clip/nobody/nothing")
    from transformers import ViTConfig, ViTModel

    tiny = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32)
    ViTModel(tiny).save_pretrained(tmp_path)
    with pytest.raises(UnpromptError, match="is a vit, which has no text tower"):
        create_text_tower(f"hf/{tmp_path}")
    with pytest.raises(UnpromptError, match=f"is a vit, not a CLIP; name it hf/{tmp_path}"):
        create_backbone(BackboneConfig(f"hf_clip/{tmp_path}"))

from __future__ import annotations

import pytest
import torch

from unprompt.models.backbones import BackboneConfig, create_backbone
from unprompt.models.positions import at_size

SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
FAMILIES = ["clip_vision_model", "siglip_vision_model", "vit", "deit", "dinov2"]


def network(model_type: str):
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    return AutoModel.from_config(AutoConfig.for_model(model_type, **SHAPE)).eval()


def positions(model) -> torch.Tensor:
    """Position embeddings of the patches, as (side, side, width)."""
    (found,) = (v for k, v in model.state_dict().items() if "position_embedding" in k)
    tokens = found.reshape(-1, found.shape[-1])
    side = int(len(tokens) ** 0.5)
    return tokens[len(tokens) - side**2 :].reshape(side, side, -1)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_ramp_of_position_embeddings_stays_one(model_type):
    model = network(model_type)
    (name,) = (k for k in model.state_dict() if "position_embedding" in k)
    state = model.state_dict()
    table = state[name].reshape(-1, 32)
    prefix = len(table) - 16
    before = table[:prefix].clone()
    rows = torch.arange(16) // 4
    table[prefix:] = rows[:, None].float()
    model.load_state_dict(state)
    larger = at_size(model, 64)
    found = positions(larger)
    assert found.shape == (8, 8, 32)
    # Rows differ, columns do not, and the means stay; ends are flat where there is no more grid.
    assert torch.allclose(found, found[:, :1].expand_as(found), atol=1e-5)
    heights = found[:, 0, 0]
    assert (heights.diff() > 0).all()
    assert heights.mean().item() == pytest.approx(1.5, abs=1e-3)
    now = larger.state_dict()[name].reshape(-1, 32)
    assert torch.equal(now[:prefix], before)
    assert larger(torch.randn(1, 3, 64, 64)).last_hidden_state.isfinite().all()


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_pretrained_model_takes_another_size_and_is_built_again(model_type, tmp_path):
    model = network(model_type)
    model.save_pretrained(tmp_path)
    name = f"hf/{tmp_path}"
    native = create_backbone(BackboneConfig(name)).eval()
    pixels = torch.randn(2, 3, 32, 32)
    same = create_backbone(BackboneConfig(name), size=32).eval()
    torch.testing.assert_close(same(pixels), native(pixels), rtol=0, atol=0)
    larger = create_backbone(BackboneConfig(name), size=48).eval()
    assert larger.preprocessing.size == 48
    enlarged = torch.nn.functional.interpolate(pixels, size=48, mode="bicubic")
    features = larger(enlarged)
    assert features.shape == (2, 32)
    again = create_backbone(larger.config, pretrained=False, size=48).eval()
    again.load_state_dict(larger.state_dict())
    torch.testing.assert_close(again(enlarged), features, rtol=0, atol=0)

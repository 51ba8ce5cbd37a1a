from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.models.conftest import tiny_hf_clip, tiny_open_clip
from unprompt.collecting.compose import compose
from unprompt.encoding import encode
from unprompt.errors import UnpromptError
from unprompt.evaluating.metrics import cosines
from unprompt.models.embedder import Embedder
from unprompt.models.heads import HeadConfig
from unprompt.models.text_towers import create_text_tower
from unprompt.training.head.zero_shot import fit_zero_shot_head

PROMPTS = list(compose(120, style="sketch"))


@pytest.fixture(scope="module", params=["open_clip", "hf_clip"])
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("pair") / "model"
    return tiny_open_clip(folder) if request.param == "open_clip" else tiny_hf_clip(folder)


@pytest.mark.parametrize("head", [HeadConfig(), HeadConfig("mlp", hidden=64)])
def test_the_head_maps_texts_to_their_prompt_embeddings(backbone, head, tmp_path):
    """A random text tower keeps some of what a prompt says, so a head learns from it."""
    fitted = fit_zero_shot_head(backbone, PROMPTS + PROMPTS[:7], head, epochs=300)
    assert fitted.prompts == 114
    known = encode(PROMPTS, precision="fp32")
    mean = cosines(np.tile(known.mean(axis=0), (len(known), 1)), known).mean()
    assert 0.2 < fitted.cosine < 1
    # The embedder that is saved has that head, on the image tower of the same model.
    fitted.embedder.save_pretrained(tmp_path / "model")
    loaded = Embedder.from_pretrained(tmp_path / "model")
    features = torch.from_numpy(create_text_tower(backbone).features(PROMPTS))
    with torch.no_grad():
        predicted = loaded.embed(features).numpy()
        again = loaded.embed(7 * features).numpy()
    assert cosines(predicted, known).mean() > mean
    np.testing.assert_allclose(again, predicted, atol=1e-5)
    assert loaded.architecture.head.normalise
    size = loaded.preprocessing.size
    pixels = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    with torch.no_grad():
        assert loaded(pixels).shape == (2, 384)


def test_the_same_call_gives_the_same_head_and_noise_another(backbone):
    def weights(noise: float) -> torch.Tensor:
        return fit_zero_shot_head(backbone, PROMPTS, noise=noise).embedder.head[-1].weight.detach()

    plain = weights(0)
    assert torch.equal(plain, weights(0))
    # Noise is a penalty: the head trusts single directions less.
    assert weights(0.3).norm() < plain.norm()


def test_what_cannot_be_fitted(backbone):
    with pytest.raises(UnpromptError, match="39 distinct prompts are too few"):
        fit_zero_shot_head(backbone, PROMPTS[:39] * 5)
    with pytest.raises(UnpromptError, match="has no text tower"):
        fit_zero_shot_head("timm/test_resnet", PROMPTS)
    library, _, place = backbone.partition("/")
    if library == "hf_clip":
        with pytest.raises(UnpromptError, match=r"32 wide .* 16, .* name a CLIP as hf_clip"):
            fit_zero_shot_head(f"hf/{place}", PROMPTS)

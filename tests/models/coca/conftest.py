"""Small CoCa models of the real architecture, ours and open_clip's."""

from copy import deepcopy

import pytest
import torch
from open_clip.coca_model import CoCa

from unprompt.models.coca import CoCaConfig, CoCaForConditionalGeneration

BOS, EOS, FILLER = 92, 93, 0

CONFIG = CoCaConfig(
    image_size=32,
    patch_size=8,
    vision_hidden_size=48,
    vision_layers=2,
    vision_heads=3,
    pooler_queries=9,
    pooler_heads=2,
    hidden_size=32,
    text_layers=3,
    text_heads=4,
    decoder_layers=2,
    decoder_heads=4,
    vocab_size=94,
    context_length=16,
    bos_token_id=BOS,
    eos_token_id=EOS,
    pad_token_id=EOS,
)
OPEN_CLIP = {
    "embed_dim": 32,
    "vision_cfg": {
        "image_size": 32,
        "patch_size": 8,
        "width": 48,
        "head_width": 16,
        "layers": 2,
        "attentional_pool": True,
        "attn_pooler_queries": 9,
        "attn_pooler_heads": 2,
        "output_tokens": True,
    },
    "text_cfg": {
        "context_length": 16,
        "vocab_size": 94,
        "width": 32,
        "heads": 4,
        "layers": 3,
        "embed_cls": True,
        "output_tokens": True,
    },
    "multimodal_cfg": {
        "context_length": 16,
        "vocab_size": 94,
        "width": 32,
        "heads": 4,
        "layers": 2,
        "attn_pooler_heads": 2,
    },
}


def our_model() -> CoCaForConditionalGeneration:
    """A random CoCa of ours, with a configuration of its own that a test may change."""
    return CoCaForConditionalGeneration(deepcopy(CONFIG))


@pytest.fixture
def model() -> CoCaForConditionalGeneration:
    torch.manual_seed(0)
    model = our_model().eval()
    # Large enough that captions depend on the image, and that mistakes show.
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(2)
    return model


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def open_clip_model(seed: int, **changes: dict) -> CoCa:
    """A random CoCa of open_clip."""
    torch.manual_seed(seed)
    stated = dict(OPEN_CLIP)
    for section, values in changes.items():
        stated[section] = stated[section] | values if isinstance(values, dict) else values
    theirs = CoCa(**stated).eval()
    for name, parameter in theirs.named_parameters():
        # open_clip leaves the projection to the vocabulary uninitialised, and biases at 0.
        torch.nn.init.normal_(parameter, std=0.3 if parameter.ndim > 1 else 0.1)
        if "ln_" in name and name.endswith("weight"):
            parameter.data.add_(1)
    theirs.logit_scale.data.fill_(2.0)
    return theirs


def texts(lengths: list[int], seed: int = 0, longest: int | None = None) -> torch.Tensor:
    """Random texts with start and end, padded with the filler on the right."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.zeros(len(lengths), longest or max(lengths), dtype=torch.long)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(1, 92, (length,), generator=generator)
        ids[row, 0], ids[row, length - 1] = BOS, EOS
    return ids

"""Small models of the real classes, with random weights, as folders that stand for the hub's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from tests.models.conftest import tiny_hf_clip
from unprompt.models.image_towers import create_image_tower, normalised
from unprompt.models.text_towers import create_text_tower


def aligned_clip(folder: Path, prompts: Sequence[str], images: Sequence[Image.Image]) -> str:
    """A CLIP whose image tower puts each image exactly where its text tower puts its prompt.

    The projection of the image tower is solved for, so both towers are otherwise random.
    """
    from transformers import CLIPModel

    name = tiny_hf_clip(folder)
    texts = torch.from_numpy(create_text_tower(name).features(list(prompts)))
    tower = create_image_tower(name)
    pixels = torch.stack([torch.from_numpy(tower.preprocessing(image)) for image in images])
    model = CLIPModel.from_pretrained(folder)
    with torch.no_grad():
        inputs = normalised(pixels.numpy(), tower.preprocessing, "cpu")
        pooled = model.vision_model(inputs).pooler_output.double()
        solved = torch.linalg.lstsq(pooled, texts.double(), driver="gelsd").solution
        model.visual_projection.weight.copy_(solved.T)
    model.save_pretrained(folder)
    return name

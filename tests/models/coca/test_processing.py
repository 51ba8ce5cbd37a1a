"""The processor gives what open_clip's transform and tokenizer give."""

import json

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transform import image_transform
from PIL import Image

from unprompt.models.coca import CoCaConfig, CoCaProcessor
from unprompt.models.coca.processing import clip_tokenizer

PROCESSOR = CoCaProcessor.from_config(CoCaConfig())
TOKENIZER = open_clip.get_tokenizer("coca_ViT-B-32")


def ids_as_open_clip(prompts: list[str]) -> torch.Tensor:
    made = PROCESSOR(text=prompts, padding="max_length", return_tensors="pt")
    return made["input_ids"].masked_fill(made["attention_mask"] == 0, 0)


@pytest.mark.parametrize(
    "prompt",
    [
        "a photo of a cat",
        "Trending on ArtStation!!! 8K, --ar 16:9 (masterpiece:1.2)",
        "“curled quotes” and jesus’ sandals，fullwidth &amp;amp; entities",
        "  spaces   and\ttabs\nand lines ",
        "naïve café 日本語 🎨🖌️",
        "",
        "!",
        "wow!!!!!!!!!!",
        "<|endoftext|> in the prompt",
        "long " * 200,
    ],
)
def test_tokens(prompt):
    assert torch.equal(ids_as_open_clip([prompt]), TOKENIZER([prompt]))


def test_tokens_of_real_prompts(shared):
    file = shared / "prompts" / "imagereward_test.txt"
    prompts = [line for line in file.read_text("utf-8").split("\n") if line]
    assert torch.equal(ids_as_open_clip(prompts), TOKENIZER(prompts))


@settings(max_examples=50)
@given(st.text(st.characters(codec="ascii"), max_size=80))
def test_tokens_of_any_ascii_text(prompt):
    assert torch.equal(ids_as_open_clip([prompt]), TOKENIZER([prompt]))


@pytest.mark.parametrize("size", [(300, 200), (224, 224), (97, 640)])
def test_pixels(size):
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    ours = PROCESSOR(images=image, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(ours, image_transform(224, is_train=False)(image))


def test_texts_come_back():
    prompt = "a castle at dawn, oil painting, 8k!"
    ids = PROCESSOR(text=[prompt])["input_ids"]
    assert PROCESSOR.batch_decode(ids, skip_special_tokens=True) == [prompt]
    assert "dawn , oil" in PROCESSOR.batch_decode(ids)[0]


def test_saved_and_loaded(tmp_path):
    PROCESSOR.save_pretrained(tmp_path)
    loaded = CoCaProcessor.from_pretrained(tmp_path)
    prompts = ["a photo of a cat", "long " * 200]
    noise = np.random.default_rng(0).integers(0, 256, (300, 500, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    first = PROCESSOR(images=[image, image], text=prompts, padding=True, return_tensors="pt")
    second = loaded(images=[image, image], text=prompts, padding=True, return_tensors="pt")
    assert first.keys() == second.keys() == {"pixel_values", "input_ids", "attention_mask"}
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["model_max_length"] == 76


def test_a_smaller_vocabulary_still_says_everything():
    small = clip_tokenizer(76, 800)
    ids = small("a photograph of an elephant")["input_ids"]
    assert len(small) == 800
    assert max(ids) == 799
    assert small.decode(ids, skip_special_tokens=True) == "a photograph of an elephant"

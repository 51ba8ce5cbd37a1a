"""Captions read as prompts are written, not as the tokenizer splits them."""

import re
from pathlib import Path

import open_clip
import pytest

from unprompt.models.coca.processing import clip_tokenizer
from unprompt.models.coca.written_text import as_written

PROMPTS = (
    "wok, realistic, 8k (masterpiece:1.2)",
    "a fox in the snow, 85mm lens, f/1.8, iso 100",
    "portrait of a 20 year old woman, art by greg rutkowski, 4k, hd",
    "low-poly render, t-shirt design; black/white",
    'a sign that says "hello world", neon lights',
    "it's a dog's life, don't look!",
    "the 1980s, 19th century, 3d render, 16:9",
    "[fox], {red} hat, ((best quality))",
    "vincent van gogh's starry night (1889)",
    "a photo of two dogs and 3 cats. wide shot.",
    "unreal engine 5, blade runner 2049",
    "--ar 3:2 --v 5",
)

# A prompt that was stored as a tokenizer spells it: `8 k`, `1 9 2 0 s`, `post - production`.
_SPELLED = re.compile(r"\d \d|\d (k|d|s|mm|th)\b|\w - \w|\w '|[a-z] [,.;:)]|\( \w")


def round_trip(prompts: list[str]) -> list[str]:
    """What is left of prompts after open_clip's tokenizer and our decoding."""
    encode = open_clip.tokenizer.SimpleTokenizer().encode
    decode = clip_tokenizer(76).decode
    return [
        as_written(decode(encode(prompt), skip_special_tokens=True) if prompt else "")
        for prompt in prompts
    ]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_prompts_come_back_as_they_were_written(prompt: str) -> None:
    assert round_trip([prompt]) == [prompt]


def test_no_tokens_are_no_text() -> None:
    assert as_written("") == ""


def test_of_real_prompts_99_percent_come_back(shared: Path) -> None:
    clean = open_clip.tokenizer.SimpleTokenizer().clean_fn
    prompts = [
        prompt
        for file in sorted((shared / "prompts").glob("*.txt"))
        for prompt in map(clean, file.read_text(encoding="utf-8").splitlines())
        if prompt and not _SPELLED.search(prompt)
    ]
    equal = sum(map(str.__eq__, prompts, round_trip(prompts)))
    assert len(prompts) > 90_000
    assert equal / len(prompts) >= 0.99

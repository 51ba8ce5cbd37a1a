"""The A1111 form: what is prompt, what is negative, what is a setting."""

from __future__ import annotations

import pytest

from unprompt.reading.infotext import parse_infotext, parse_values, settings_of
from unprompt.reading.result import Lora

LINE = "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 5, Size: 512x768"


@pytest.mark.parametrize(
    ("text", "prompt", "negative"),
    [
        (f"a cat\nNegative prompt: dog\n{LINE}", "a cat", "dog"),
        (f"a cat\n{LINE}", "a cat", None),
        (f"Negative prompt: dog\n{LINE}", "", "dog"),
        (f"a cat\r\nNegative prompt: dog\r\n{LINE}", "a cat", "dog"),
        (f"one,\n\nthree\nNegative prompt: four\nfive\n{LINE}", "one,\n\nthree", "four\nfive"),
        (
            f'a sign "Negative prompt: none", wood\nNegative prompt: dog\n{LINE}',
            'a sign "Negative prompt: none", wood',
            "dog",
        ),
        (f"Steps: 3 to the door\na cat\n{LINE}", "Steps: 3 to the door\na cat", None),
        ("a cat", "a cat", None),
        ("a cat\nNegative prompt: dog", "a cat", "dog"),
        ("Subject: cat, Style: oil, Mood: dark", "Subject: cat, Style: oil, Mood: dark", None),
        ("a cat\nSubject: x, Style: y, Mood: z", "a cat\nSubject: x, Style: y, Mood: z", None),
        ("a cat\nSampler: Euler, Seed: 7", "a cat", None),
        (f"a cat\n{LINE}\nTemplate: a {{cat|dog}}\nNegative Template: x", "a cat", None),
        (f"\ufeffa cat\n{LINE}\0\0", "a cat", None),
    ],
)
def test_parts(text: str, prompt: str, negative: str | None) -> None:
    parsed = parse_infotext(text)
    assert parsed.prompt.strip() == prompt
    assert parsed.negative_prompt == negative


def test_settings() -> None:
    parsed = parse_infotext(
        "a <lora:detail:0.8> cat <lyco:style:1> <lora:bare>\n"
        f'{LINE}, Schedule type: Karras, Model hash: ab, Model: m, "VAE": x, VAE: v.pt, '
        'Denoising strength: 0.4, Clip skip: 2, Lora hashes: "detail: 1, other: 2", Version: v1'
    )
    settings = settings_of(parsed)
    assert settings.size == (512, 768)
    assert (settings.steps, settings.seed, settings.guidance) == (20, 5, 7.0)
    assert (settings.sampler, settings.scheduler) == ("Euler a", "Karras")
    assert (settings.model, settings.model_hash, settings.vae) == ("m", "ab", "v.pt")
    assert (settings.denoise, settings.clip_skip) == (0.4, 2)
    assert settings.loras == (
        Lora("detail", 0.8),
        Lora("style", 1.0),
        Lora("bare"),
        Lora("other"),
    )
    assert settings.other["Version"] == "v1"


def test_values_may_be_quoted_or_json_or_unknown() -> None:
    values = parse_values(
        'Steps: 20, Hires prompt: "a, b: \\"c\\"\\nd", Civitai resources: [{"a": 1}, {"b": 2}], '
        '???, ADetailer model 2nd: x.pt, Empty: , Broken: "open, Last: {1'
    )
    assert values["Hires prompt"] == 'a, b: "c"\nd'
    assert values["Civitai resources"] == '[{"a": 1}, {"b": 2}]'
    assert values["ADetailer model 2nd"] == "x.pt"
    assert values["Empty"] == ""
    assert values["Broken"] == '"open'
    assert values["Last"] == "{1"


@pytest.mark.parametrize(
    ("line", "seed", "guidance"),
    [
        ("Seed: 18446744073709551615, CFG scale: 1e1", 18446744073709551615, 10.0),
        ("Seed: x, CFG scale: nan", None, None),
        ("Seed: 1.0, CFG scale: inf", 1, None),
        ("Seed: " + "9" * 5000 + ", CFG scale: 7", None, 7.0),
    ],
)
def test_numbers(line: str, seed: int | None, guidance: float | None) -> None:
    settings = settings_of(parse_infotext(f"a\nSteps: 1, {line}"))
    assert settings.seed == seed
    assert settings.guidance == guidance

"""The A1111 form: what is prompt, what is negative, what is a setting."""

from __future__ import annotations

import pytest

from unprompt.reading.infotext import (
    format_infotext,
    has_settings,
    parse_infotext,
    parse_values,
    settings_of,
)
from unprompt.reading.result import Lora, Settings

LINE = "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 5, Size: 512x768"


@pytest.mark.parametrize(
    ("text", "prompt", "negative"),
    [
        (f"a cat\nNegative prompt: dog\n{LINE}", "a cat", "dog"),
        (f"a cat\n{LINE}", "a cat", None),
        (f"Negative prompt: dog\n{LINE}", "", "dog"),
        (f"a cat\r\nNegative prompt: dog\r\n{LINE}", "a cat", "dog"),
        (
            f"one,\n\nthree\nNegative prompt: four\nfive\n{LINE}",
            "one,\n\nthree",
            "four\nfive",
        ),
        (
            f'a sign "Negative prompt: none", wood\nNegative prompt: dog\n{LINE}',
            'a sign "Negative prompt: none", wood',
            "dog",
        ),
        (f"Steps: 3 to the door\na cat\n{LINE}", "Steps: 3 to the door\na cat", None),
        ("a cat", "a cat", None),
        ("a cat\nNegative prompt: dog", "a cat", "dog"),
        (
            "Subject: cat, Style: oil, Mood: dark",
            "Subject: cat, Style: oil, Mood: dark",
            None,
        ),
        (
            "a cat\nSubject: x, Style: y, Mood: z",
            "a cat\nSubject: x, Style: y, Mood: z",
            None,
        ),
        ("a cat\nSampler: Euler, Seed: 7", "a cat", None),
        (
            f"a cat\n{LINE}\nTemplate: a {{cat|dog}}\nNegative Template: x",
            "a cat",
            None,
        ),
        (f"\ufeffa cat\n{LINE}\0\0", "a cat", None),
        ("a cat\nSampler: Euler, Seed: 7\n \n", "a cat", None),
        ("a cat\nVersion: v1, Subject: x, Style: y", "a cat", None),
        ("a cat\nVersion: v1, Subject: x", "a cat\nVersion: v1, Subject: x", None),
        (
            "a cat\nVersion: v1, Subject: x, Empty: ,",
            "a cat\nVersion: v1, Subject: x, Empty: ,",
            None,
        ),
        ("Sampler: Euler, Seed: 7", "Sampler: Euler, Seed: 7", None),
        ("a cat\nNegative prompt: Seed: 7", "a cat", "Seed: 7"),
        ("a cat\n  Negative prompt:  two", "a cat", " two"),
        (
            f"a cat\nNegative prompt: one\nNegative prompt: two\n{LINE}",
            "a cat",
            "one\nNegative prompt: two",
        ),
        ("a cat\nSteps: many", "a cat", None),
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


KNOWN_KEYS = [
    "Steps", "Sampler", "Schedule type", "CFG scale", "Seed", "Size", "Model hash", "Model", "VAE",
    "Denoising strength", "Clip skip", "Version", "Lora hashes", "Hires upscale",
]  # fmt: skip


@pytest.mark.parametrize("key", KNOWN_KEYS)
def test_a_last_line_of_known_keys_is_settings(key: str) -> None:
    parsed = parse_infotext(f"a cat\n{key}: x")
    assert (parsed.prompt, parsed.values) == ("a cat", {key: "x"})


@pytest.mark.parametrize(
    ("text", "certain"),
    [
        ("a cat", False),
        ("Steps to the door", False),
        (f"a cat\n{LINE}", True),
        ("a cat\nNegative prompt: dog", True),
        ('a sign "Negative prompt: none"', False),
    ],
)
def test_a_text_is_certain_if_it_has_settings_or_a_negative_prompt(
    text: str, certain: bool
) -> None:
    assert has_settings(text) is parse_infotext(text).certain is certain


def test_long_and_quoted_lines_are_parsed_as_short_ones_are() -> None:
    pairs = {f"Key {k}": f"value {k}" for k in range(399)}
    short = ", ".join(f"{key}: {value}" for key, value in list(pairs.items())[:100])
    assert parse_values(short) == dict(list(pairs.items())[:100])
    line = ", ".join(f"{key}: {value}" for key, value in pairs.items())
    assert parse_values(line) == pairs
    assert parse_values(f'{line}, Quoted: "a, b"') == {**pairs, "Quoted": "a, b"}
    # A hostile text may hold pairs without end.
    assert len(parse_values(f'{line}, Quoted: "a, b", One: too many')) == 400
    assert parse_values('words, Seed: 7,\r\n\tSize: 1x2\nModel: m, Quoted: "a"') == {
        "Seed": "7",
        "Size": "1x2",
        "Model": "m",
        "Quoted": "a",
    }
    assert parse_values("one\nSeed: 7\nSeed: 8") == {"Seed": "8"}


def test_other_spellings_of_settings() -> None:
    for line in (
        "CFG Scale: 3, model: m, Scheduler: s, Denoise: 0.5",
        "Guidance Scale: 3",
    ):
        assert settings_of(parse_infotext(f"a\nSteps: 1, {line}")).guidance == 3.0
    settings = settings_of(parse_infotext("a\nSteps: 1, Guidance scale: 3"))
    assert (settings.guidance, settings.other) == (3.0, {})
    settings = settings_of(
        parse_infotext("a\nSteps: 1, model: m, Scheduler: s, Denoise: 0.5, Size: 64 × 32")
    )
    assert (settings.model, settings.scheduler, settings.denoise) == ("m", "s", 0.5)
    assert (settings.size, settings.other) == ((64, 32), {})
    empty = settings_of(parse_infotext("a\nSteps: 1, Model: , Model hash: , Sampler: , VAE: "))
    assert (empty.model, empty.model_hash, empty.sampler, empty.vae) == (None,) * 4


def test_hashes_of_loras_name_those_that_the_prompt_does_not() -> None:
    stated = 'a <lora:one:0.5>\nSteps: 1, Lora hashes: "one: 1a, two: 2b, none"'
    assert settings_of(parse_infotext(stated)).loras == (Lora("one", 0.5), Lora("two"))
    as_json = 'a\nSteps: 1, Lora hashes: {"one": "1a"}'
    assert settings_of(parse_infotext(as_json)).loras == ()


def test_every_setting_is_written_and_read_back() -> None:
    settings = Settings(
        model="m, n",
        model_hash="ab",
        seed=5,
        steps=20,
        sampler="Euler a",
        scheduler="Karras",
        guidance=7.0,
        width=512,
        height=768,
        denoise=0.4,
        clip_skip=2,
        vae=" v.pt",
        other={
            "Version": "v1",
            "List": "[1",
            "Map": "{",
            "Note": 'a "b"',
            "Time": "1:2",
        },
    )
    text = format_infotext("a cat\nand more", "dog", settings)
    assert text == (
        "a cat\nand more\nNegative prompt: dog\n"
        "Steps: 20, Sampler: Euler a, Schedule type: Karras, CFG scale: 7, Seed: 5, Size: 512x768, "
        'Model hash: ab, Model: "m, n", VAE: " v.pt", Denoising strength: 0.4, Clip skip: 2, '
        'Version: v1, List: "[1", Map: "{", Note: "a \\"b\\"", Time: "1:2"'
    )
    assert settings_of(parse_infotext(text)) == settings


def test_a_prompt_alone_is_written_as_it_is() -> None:
    assert format_infotext("a cat") == format_infotext("a cat", "") == "a cat"
    assert format_infotext("a cat", "dog") == "a cat\nNegative prompt: dog"
    assert format_infotext("ä", None, Settings(model="é, è")) == 'ä\nModel: "é, è"'


@pytest.mark.parametrize(
    ("prompt", "negative"),
    [
        ("a cat\nNegative prompt: x", None),
        ("a cat\nNegative prompt: x", "dog"),
        ("a cat\nSteps: 20", None),
        ("a cat", "dog\nSteps: 20"),
        ("a cat\r", None),
    ],
)
def test_a_prompt_that_would_be_read_back_as_another_is_refused(
    prompt: str, negative: str | None
) -> None:
    with pytest.raises(ValueError, match="reword that line"):
        format_infotext(prompt, negative)

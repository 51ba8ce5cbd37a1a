"""Readings as JSON and as text."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest

from unprompt.reading import Lora, Prompt, Reading, Settings
from unprompt.reading.formatting import show, to_json, to_text
from unprompt.reading.result import as_float, as_int, changed

READING = Reading(
    "a fox\nin snow",
    "dog",
    "ComfyUI",
    "1.0",
    Settings(seed=2**64, width=4, height=8, loras=(Lora("x", 0.5), Lora("y")), other={"a": "b"}),
    (Prompt("a fox\nin snow"), Prompt("dog", "negative"), Prompt("face", "detailer", "node 3")),
    where=("PNG tEXt prompt",),
    declares_ai=True,
    problems=("cut",),
)


def test_json_has_the_same_keys_with_and_without_a_reading() -> None:
    full, empty = json.loads(to_json("x.png", READING)), json.loads(to_json("x.png", None, "why"))
    assert full.keys() == empty.keys()
    assert full["settings"]["seed"] == 2**64
    assert full["settings"]["loras"] == [
        {"name": "x", "weight": 0.5},
        {"name": "y", "weight": None},
    ]
    assert (empty["prompt"], empty["error"], full["error"]) == (None, "why", None)
    assert "raw" not in full
    assert json.loads(to_json("x.png", READING, raw=True))["raw"] == []


def test_text() -> None:
    assert to_text(READING).split("\n") == [
        "a fox",
        "in snow",
        "  seed     18446744073709551616",
        "  size     4 x 8",
        "  LoRAs    x (0.5), y",
    ]
    assert "a best guess" in to_text(changed(READING, certain=False))
    assert to_text(Reading("a fox")) == "a fox"
    assert to_text(Reading(None)) == ""
    assert to_text(READING, everything=True).split("\n") == [
        "prompt:",
        "    a fox",
        "    in snow",
        "negative prompt: dog",
        "generator: ComfyUI 1.0",
        "seed: 18446744073709551616",
        "width: 4",
        "height: 8",
        "lora: x (0.5)",
        "lora: y",
        "a: b",
        "also (detailer, node 3): face",
        "declares itself AI-generated: yes",
        "found in: PNG tEXt prompt",
        "problem: cut",
    ]
    assert READING.settings.size == (4, 8)
    assert Settings().size is None


def test_a1111_form(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    settings = Settings("m", seed=5, steps=20, sampler="Euler a", guidance=7.0, width=4, height=8)
    reading = Reading("a fox", "dog", settings=settings)
    text, note, failed = show(path, reading, None, form="a1111")
    assert text == (
        "a fox\nNegative prompt: dog\n"
        "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 5, Size: 4x8, Model: m"
    )
    assert (note, failed) == (None, False)
    impossible = changed(reading, prompt="a fox\nNegative prompt: x")
    text, note, failed = show(path, impossible, None, form="a1111")
    assert text is None
    assert failed
    assert note is not None
    assert "A1111" in note
    assert show(path, None, None, form="a1111").note == f"{path}: no prompt found"


def test_limits_are_told_beside_no_prompt(tmp_path: Path) -> None:
    note = show(tmp_path, Reading(None, problems=("too large",)), None).note
    assert note == f"{tmp_path}: no prompt found (too large)"


def test_what_is_known_is_told_beside_no_prompt(tmp_path: Path) -> None:
    declared = Reading(None, generator="Google", declares_ai=True)
    note = show(tmp_path, declared, None).note
    assert note == f"{tmp_path}: no prompt found (made by Google; declares itself AI-generated)"
    text, note, failed = show(tmp_path, Reading(""), None)
    assert (text, failed) == (None, False)
    assert note == f"{tmp_path}: no prompt found (the stated prompt is empty)"
    assert show(tmp_path, Reading("", "blurry"), None, everything=True).text


def test_numbers() -> None:
    values = [" 7 ", "7.0", 7, 7.0, "x", "", True, None, 7.5, float("inf"), 1 << 200, "9" * 99]
    assert [as_int(v) for v in values] == [
        7,
        7,
        7,
        7,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
    ]
    assert [as_float(v) for v in ("7", 7, True, "x", float("nan"), "1" * 500, 10**400)] == [
        7.0, 7.0, None, None, None, None, None,
    ]  # fmt: skip


def test_a_changed_copy_is_as_dataclasses_make_it() -> None:
    reading = Reading("a fox", settings=Settings(seed=5))
    copy = changed(reading, prompt="a wolf")
    assert copy == replace(reading, prompt="a wolf")
    assert reading.prompt == "a fox"
    with pytest.raises(FrozenInstanceError):
        copy.prompt = "a dog"  # type: ignore[misc]

"""Text nodes of ComfyUI whose result is computed."""

from __future__ import annotations

import time
import tracemalloc
from typing import Any

import pytest

from tests.reading import making
from unprompt.reading import Reading, read

Inputs = dict[str, Any]
LONG = "a studio shot of {x}, grey paper"


def graph(class_type: str, inputs: Inputs, **nodes: tuple[str, Inputs]) -> Reading:
    api = making.api(
        n3=("KSampler", {"seed": 1, "positive": ["6", 0], "latent_image": ["5", 0]}),
        n6=("CLIPTextEncode", {"text": ["10", 0]}),
        n9=("SaveImage", {"images": ["3", 0]}),
        n10=(class_type, inputs),
        n11=("PrimitiveString", {"value": "a tin robot"}),
        **nodes,
    )
    reading = read(making.png(making.itext("prompt", api)))
    assert reading is not None
    return reading


@pytest.mark.parametrize(
    ("class_type", "inputs", "prompt"),
    [
        ("StringConcatenate", {"string_a": "a", "string_b": ["11", 0], "delimiter": ""},
         "aa tin robot"),
        ("StringConcatenate", {"string_a": "a", "string_b": "", "delimiter": ", "}, "a,"),
        ("StringReplace", {"string": LONG, "find": "{x}", "replace": ["11", 0]},
         "a studio shot of a tin robot, grey paper"),
        ("StringReplace", {"string": ["11", 0], "find": "tin ", "replace": ""}, "a robot"),
        ("StringFormat", {"f_string": "{a}, {{b}}, {c}", "values.a": ["11", 0]},
         "a tin robot, {b}, {c}"),
        ("StringTrim", {"string": "  a fox ", "mode": "Left"}, "a fox"),
        ("StringSubstring", {"string": "a red fox", "start": 2, "end": 5}, "red"),
        ("CaseConverter", {"string": ["11", 0], "mode": "UPPERCASE"}, "A TIN ROBOT"),
        ("RegexReplace", {"string": ["11", 0], "regex_pattern": "t.n", "replace": "steel",
                          "count": 0}, "a steel robot"),
        ("RegexReplace", {"string": "xx XX", "regex_pattern": "x", "replace": "y",
                          "case_insensitive": False, "count": 1}, "yx XX"),
        ("RegexExtract", {"string": '"light": "soft glow"', "mode": "First Group",
                          "regex_pattern": '"light":\\s*"([^"]*)"', "group_index": 1},
         "soft glow"),
        ("RegexExtract", {"string": "a1b2", "mode": "All Matches", "regex_pattern": "[a-z]"},
         "a\nb"),
        ("JsonExtractString", {"json_string": '{"scene": "a fox"}', "key": "scene"}, "a fox"),
        ("StringFunction|pysssss", {"action": "append", "tidy_tags": "yes", "text_a": "a fox,",
                                    "text_b": "oil", "text_c": ""}, "a fox, oil"),
        ("StringFunction|pysssss", {"action": "replace", "tidy_tags": "no", "text_a": "a fox",
                                    "text_b": "fox", "text_c": "cat"}, "a cat"),
        ("ImpactStringSelector", {"strings": "a cow\na fox", "multiline": False, "select": 3},
         "a fox"),
        ("easy promptReplace", {"prompt": "a fox", "find1": "fox", "replace1": "cat",
                                "find2": "", "replace2": ""}, "a cat"),
        ("Text Concatenate", {"linebreak_addition": "false", "text_a": "", "text_b": ""}, ""),
        ("Text Concatenate", {"linebreak_addition": "false", "text_a": "a ", "text_b": "fox"},
         "a fox"),
        ("Text Find and Replace Input", {"text": "a __x__", "find": "__x__", "replace": ["11", 0]},
         "a a tin robot"),
        ("ComfySwitchNode", {"switch": True, "on_false": "a cow", "on_true": ["11", 0]},
         "a tin robot"),
        ("Prompt Stack", {"text_1": "a fox", "switch_2": "Off", "text_2": "old"}, "a fox"),
    ],
)  # fmt: skip
def test_results(class_type: str, inputs: Inputs, prompt: str) -> None:
    reading = graph(class_type, inputs)
    assert (reading.prompt or "").strip() == prompt
    assert reading.certain


@pytest.mark.parametrize(
    ("class_type", "inputs", "prompt"),
    [
        ("StringReplace", {"string": LONG, "find": "{x}", "replace": ["12", 0]},
         LONG),
        ("ComfySwitchNode", {"switch": ["12", 0], "on_false": "a cow", "on_true": "a fox"},
         "a cow"),
        ("OllamaGenerate", {"prompt": "describe a fox"}, "describe a fox"),
        ("RegexReplace", {"string": "a fox", "regex_pattern": "(a+)+$", "replace": ""}, "a fox"),
    ],
)  # fmt: skip
def test_unknown_parts_make_the_prompt_uncertain(
    class_type: str, inputs: Inputs, prompt: str
) -> None:
    reading = graph(class_type, inputs, n12=("FileReader", {"path": ["13", 0]}), n13=("X", {}))
    assert reading.prompt == prompt
    assert not reading.certain


@pytest.mark.parametrize(
    "pattern",
    ["(a|a)*$", "(a*)*b", "a*a*a*a*b", "(.*)(.*)(.*)x", "(?P<n>a)(?P=n)", r"(a)\1", "[", "a{9}{9}"],
)
def test_patterns_cannot_hang(pattern: str) -> None:
    started = time.thread_time()
    graph("RegexReplace", {"string": "a" * 5000, "regex_pattern": pattern, "replace": "x" * 5000})
    graph("RegexExtract", {"string": "a" * 5000, "regex_pattern": pattern, "mode": "All Groups"})
    assert time.thread_time() - started < 1


@pytest.mark.parametrize(
    ("class_type", "names"),
    [
        ("StringReplace", ("string", "find", "replace")),
        ("Text Find and Replace", ("text", "find", "replace")),
        ("easy promptReplace", ("prompt", "find1", "replace1")),
        ("StringFunction|pysssss", ("text_a", "text_b", "text_c")),
    ],
)
def test_replacements_cannot_fill_memory(class_type: str, names: tuple[str, str, str]) -> None:
    nodes: dict[str, tuple[str, Inputs]] = {}
    for number in range(20, 40):
        source: Any = [str(number - 1), 0] if number > 20 else "a"
        values = (source, "a", "a" * 5000)
        inputs = {"action": "replace", **dict(zip(names, values, strict=True))}
        nodes[f"n{number}"] = (class_type, inputs)
    tracemalloc.start()
    reading = graph("StringTrim", {"string": ["39", 0], "mode": "Both"}, **nodes)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 100 << 20
    assert len(reading.prompt or "") <= 4 << 20
    assert not reading.certain


def test_two_sides_are_told_apart_by_the_slot() -> None:
    for first, second in ((0, 1), (1, 0)):
        api = making.api(
            n3=("KSampler", {"seed": 1, "positive": ["8", first], "negative": ["8", second]}),
            n6=("CLIPTextEncode", {"text": "a fox"}),
            n7=("CLIPTextEncode", {"text": "blurry"}),
            n8=("ControlNetApplyAdvanced", {
                "positive": ["6" if first == 0 else "7", 0],
                "negative": ["7" if first == 0 else "6", 0],
            }),
            n9=("SaveImage", {"images": ["3", 0]}),
        )  # fmt: skip
        reading = read(making.png(making.itext("prompt", api)))
        assert reading is not None
        assert (reading.prompt, reading.negative_prompt) == ("a fox", "blurry")


@pytest.mark.parametrize(
    "class_type", ["SAM3_Detect", "GroundingDinoSAMSegment", "Florence2Run", "CLIPSeg", "BRIA_RMBG"]
)
def test_queries_of_masks_are_no_prompts(class_type: str) -> None:
    if class_type == "BRIA_RMBG":
        inputs: Inputs = {"image": ["1", 0]}
    else:
        inputs = {"prompt": "dog", "conditioning": ["6", 0], "model": ["5", 0], "image": ["1", 0]}
    api = making.api(
        n1=("LoadImage", {"image": "x.png"}),
        n5=("Loader", {}),
        n6=("CLIPTextEncode", {"text": "dog"}),
        n3=(class_type, inputs),
        n9=("SaveImage", {"images": ["3", 0]}),
    )
    reading = read(making.png(making.itext("prompt", api)))
    assert reading is not None
    assert reading.prompt is None


@pytest.mark.parametrize(
    "class_type", ["BBoxFinder", "LocateObject", "ImageCropByPrompt", "MoondreamQuery", "QwenVL"]
)
def test_what_a_node_looks_for_in_an_image_is_no_prompt(class_type: str) -> None:
    for name, prompt in ((class_type, None), ("MyImageEdit", "dog")):
        api = making.api(
            n1=("LoadImage", {"image": "x.png"}),
            n3=(name, {"prompt": "dog", "image": ["1", 0]}),
            n9=("SaveImage", {"images": ["3", 0]}),
        )
        reading = read(making.png(making.itext("prompt", api)))
        assert reading is not None
        assert reading.prompt == prompt

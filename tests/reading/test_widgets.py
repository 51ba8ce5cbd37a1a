"""Names and kinds of the widgets of workflows."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.reading import making
from unprompt.reading import Reading, read
from unprompt.reading.comfyui.widgets import is_option, is_prose, named_widgets

PROMPT = "a copper kettle on a windowsill, morning fog"


@pytest.mark.parametrize(
    "value",
    [
        "", "#000000", "randomize", "auto", "1K", "2048x2048 (1:1)", "16:9 (Widescreen)", "0.5",
        "seedream-4-0-250828", "model.safetensors", "video/h264-mp4", "Gemini 3.8 Flash", "Bloom 2",
        "FullHD (1080p)", "None (FP16)", "1.0, 0.97, 0.2", "(2K) 2048x2048 (1:1)",
        "C:\\models\\x", "rgb(1, 2, 3)",
    ],
)  # fmt: skip
def test_options(value: str) -> None:
    assert is_option(value)
    assert not is_prose(value)


@pytest.mark.parametrize(
    "value",
    [
        PROMPT,
        "一只猫在窗台上",
        "cat, dog, tree",
        "line one\nline two of text",
        "a cat sits on a mat",
    ],
)
def test_prose(value: str) -> None:
    assert is_prose(value)


@pytest.mark.parametrize(
    ("class_type", "values", "expected"),
    [
        ("NewImageNode", ["model-1", PROMPT, "16:9", 7, "randomize"], {"prompt_1": PROMPT}),
        ("NewImageNode", [PROMPT, "low quality, blurry, ugly", 7],
         {"prompt_0": PROMPT, "negative_prompt_1": "low quality, blurry, ugly"}),
        ("NewImageNode", [PROMPT, 1, "You are an expert who writes long replies."],
         {"prompt_0": PROMPT, "system_2": "You are an expert who writes long replies."}),
        ("NewImageNode", ["remove the hat", 7, "randomize"], {"prompt_0": "remove the hat"}),
        ("NewTextNode", ["fox"], {"prompt_0": "fox"}),
        ("Upscale", ["scale by multiplier", 2], {}),
        ("KSampler", [5, "fixed", 8, 7, "euler", "simple", 1], {"seed": 5, "steps": 8}),
    ],
)  # fmt: skip
def test_names_by_values(class_type: str, values: list[Any], expected: dict[str, Any]) -> None:
    named, _ = named_widgets({"type": class_type, "widgets_values": values})
    found = {name: value for name, value in named.items() if not name.startswith("widget_")}
    assert found.items() >= expected.items()
    assert expected or not found


def test_sockets_take_values_of_their_type() -> None:
    sockets = [
        {"name": "asset_id", "type": "STRING", "widget": {"name": "asset_id"}, "link": 4},
        {"name": "seed", "type": "INT", "widget": {"name": "seed"}, "link": None},
    ]
    raw = {"type": "New", "inputs": sockets, "widgets_values": [PROMPT, "x", "", 3, "fixed"]}
    named, _ = named_widgets(raw)
    assert named["asset_id"] == ""  # what was typed before it was linked
    assert named["seed"] == 3
    assert named["prompt_0"] == PROMPT


def test_what_stands_behind_a_linked_text_is_not_taken() -> None:
    sockets = [{"name": "prompt", "type": "STRING", "widget": {"name": "prompt"}, "link": 1}]
    raw = {"type": "Encoder", "inputs": sockets, "widgets_values": ["", 12, "match", PROMPT]}
    named, _ = named_widgets(raw)
    assert named["shown_3"] == PROMPT


def workflow(node: dict[str, Any]) -> Reading | None:
    nodes = [
        {"id": 1, "mode": 0, "outputs": [{"name": "IMAGE", "type": "IMAGE"}], **node},
        {"id": 2, "type": "SaveImage", "inputs": [{"name": "images", "link": 1}]},
    ]
    value = {"nodes": nodes, "links": [[1, 1, 0, 2, 0, "IMAGE"]]}
    return read(making.png(making.itext("workflow", json.dumps(value))))


@pytest.mark.parametrize("text", ["standard", "#ffffff", "veo-3.0-generate", "You are a painter."])
def test_an_option_is_never_an_answer(text: str) -> None:
    reading = workflow({"type": "NewImageNode", "widgets_values": [text, 7, "randomize", "high"]})
    assert reading is not None
    assert reading.prompt is None


@pytest.mark.parametrize(
    ("class_type", "values", "negative"),
    [
        ("GeminiImageNode", ["fox", "gemini-2.5-flash-image", 7, "randomize"], None),
        ("GeminiNanoBanana2", ["fox", "Nano Banana 2 (Gemini 3.1 Flash Image)", 7, "fixed"], None),
        ("ByteDanceSeedreamNode", ["seedream-4-0", "fox", "2048x2048 (1:1)", 7, "fixed"], None),
        ("KlingTextToVideoNode", ["fox", "blurry, low", 0.5, "16:9"], "blurry, low"),
        ("Veo3VideoGenerationNode", ["fox", "16:9", "dark", 8, True, "ALLOW", 7, "fixed"], "dark"),
        ("FluxProUltraImageNode", ["fox", False, 7, "randomize", "16:9", False], None),
        ("IdeogramV3", ["fox", "1:1", "Auto", "AUTO", 7, "fixed", 1, "DEFAULT"], None),
        ("RecraftTextToImageNode", ["fox", "1024x1024", 1, 7, "fixed", "ugly, low quality, dark"],
         "ugly, low quality, dark"),
        ("RunwayTextToImageNode", ["fox", "1920:1080"], None),
        ("LumaImageNode", ["fox", "photon-1", "16:9", 7, "randomize", 1], None),
        ("MinimaxTextToVideoNode", ["fox", "T2V-01", 7, "randomize"], None),
        ("PixverseTextToVideoNode", ["fox", "16:9", "540p", 5, "normal", 7, "fixed"], None),
        ("StabilityStableImageUltraNode", ["fox", "1:1", "None", 7, "fixed", 0.5], None),
        ("WanTextToVideoApi", ["wan2.5-t2v", "fox", "dark", "480p", "5", 7, "fixed"], "dark"),
    ],
)  # fmt: skip
def test_partner_nodes(class_type: str, values: list[Any], negative: str | None) -> None:
    reading = workflow({"type": class_type, "widgets_values": values})
    assert reading is not None
    assert (reading.prompt, reading.negative_prompt) == ("fox", negative)
    assert reading.certain


def test_another_version_of_a_known_node() -> None:
    values = [7, "randomize", PROMPT, "match"]
    reading = workflow({"type": "OpenAIGPTImage1", "widgets_values": values})
    assert reading is not None
    assert reading.prompt == PROMPT


def test_a_guess_is_not_certain() -> None:
    values = ["remove the hat", 7, "randomize"]
    reading = workflow({"type": "NewImageNode", "widgets_values": values})
    assert reading is not None
    assert reading.prompt == "remove the hat"
    assert not reading.certain


@pytest.mark.parametrize(("slot", "prompt"), [(0, "a fox"), (1, "blurry")])
def test_a_bypassed_node_passes_on_the_input_in_the_same_place(slot: int, prompt: str) -> None:
    def encoder(number: int, text: str) -> dict[str, Any]:
        return {"id": number, "type": "CLIPTextEncode", "widgets_values": [text]}

    sides = [{"name": n, "type": "CONDITIONING", "link": k} for n, k in (("a", 1), ("b", 2))]
    outputs = [{"name": n, "type": "CONDITIONING"} for n in ("positive", "negative")]
    nodes = [
        encoder(1, "a fox"),
        encoder(2, "blurry"),
        {"id": 3, "type": "Guide", "mode": 4, "inputs": sides, "outputs": outputs},
        {"id": 4, "type": "KSampler", "inputs": [{"name": "positive", "link": 3}],
         "widgets_values": [1, "fixed", 8, 1, "euler", "simple", 1]},
        {"id": 5, "type": "SaveImage", "inputs": [{"name": "images", "link": 4}]},
    ]  # fmt: skip
    links = [
        [1, 1, 0, 3, 0, "*"],
        [2, 2, 0, 3, 1, "*"],
        [3, 3, slot, 4, 0, "*"],
        [4, 4, 0, 5, 0, "*"],
    ]
    text = json.dumps({"nodes": nodes, "links": links})
    reading = read(making.png(making.itext("workflow", text)))
    assert reading is not None
    assert reading.prompt == prompt


@pytest.mark.parametrize("form", ["inputs", "proxies", "sockets"])
def test_values_of_a_sub_graph_stand_on_its_node(form: str) -> None:
    inner = {
        "id": "sub",
        "inputs": [
            {"name": "image", "type": "IMAGE", "linkIds": []},
            {"name": "text", "type": "STRING", "linkIds": [20]},
            {"name": "seed", "type": "INT", "linkIds": []},
        ],
        "outputs": [{"name": "IMAGE", "type": "IMAGE", "linkIds": [27]}],
        "nodes": [
            {
                "id": 10,
                "type": "CLIPTextEncode",
                "inputs": [
                    {"name": "text", "type": "STRING", "widget": {"name": "text"}, "link": 20}
                ],
                "widgets_values": ["stale text"],
            },
            {
                "id": 11,
                "type": "KSampler",
                "inputs": [{"name": "positive", "link": 22}],
                "widgets_values": [1, "fixed", 8, 1, "euler", "simple", 1],
            },
        ],
        "links": [
            {"id": 20, "origin_id": -10, "origin_slot": 1, "target_id": 10, "target_slot": 0},
            {"id": 22, "origin_id": 10, "origin_slot": 0, "target_id": 11, "target_slot": 0},
            {"id": 27, "origin_id": 11, "origin_slot": 0, "target_id": -20, "target_slot": 0},
        ],
    }
    node: dict[str, Any] = {"id": 1, "type": "sub", "inputs": [{"name": "image", "link": None}]}
    if form == "inputs":
        node["widgets_values"] = [PROMPT, 77, "randomize"]
    elif form == "proxies":
        node["properties"] = {"proxyWidgets": [["11", "seed"], ["-1", "text"], ["11", "steps"]]}
        node["widgets_values"] = [77, PROMPT, 4]
    else:
        node["inputs"].append({"name": "text", "widget": {"name": "text"}, "link": None})
        node["widgets_values"] = [PROMPT]
    value = {
        "nodes": [node, {"id": 2, "type": "SaveImage", "inputs": [{"name": "images", "link": 1}]}],
        "links": [[1, 1, 0, 2, 0, "IMAGE"]],
        "definitions": {"subgraphs": [inner]},
    }
    reading = read(making.png(making.itext("workflow", json.dumps(value))))
    assert reading is not None
    assert reading.prompt == PROMPT
    if form == "proxies":
        assert (reading.settings.seed, reading.settings.steps) == (77, 4)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("form", ["proxies", "object", "inner proxies"])
def test_values_on_a_sub_graph_reach_what_is_inside(form: str, nested: bool) -> None:
    def graph(name: str, node: dict[str, Any]) -> dict[str, Any]:
        text = {"name": "text", "type": "STRING", "linkIds": [1]}
        inner = {**node, "id": 6, "inputs": [{"name": "text", "widget": {"name": "text"}}]}
        ends = [(6, 0, -20, 0)]
        if form != "inner proxies":
            ends.append((-10, 0, 6, 0))
        links = [
            {"id": n, "origin_id": a, "origin_slot": b, "target_id": c, "target_slot": d}
            for n, (a, b, c, d) in enumerate(ends, 1)
        ]
        inputs = [] if form == "inner proxies" else [text]
        return {"id": name, "inputs": inputs, "nodes": [inner], "links": links}

    place = "6" if form == "inner proxies" else "-1"
    proxies = {"proxyWidgets": [[place, "text"]]}
    graphs = [graph("one", {"type": "CLIPTextEncode", "widgets_values": ["stale"]})]
    if nested:
        middle = {"type": "one", "widgets_values": ["stale too"], "properties": proxies}
        graphs.append(graph("two", middle))
    values: Any = {"text": PROMPT} if form == "object" else [PROMPT]
    outer = {"id": 1, "type": graphs[-1]["id"], "widgets_values": values, "properties": proxies}
    nodes = [
        outer,
        {"id": 2, "type": "KSampler", "inputs": [{"name": "positive", "link": 1}],
         "widgets_values": [1, "fixed", 8, 1, "euler", "simple", 1]},
        {"id": 3, "type": "SaveImage", "inputs": [{"name": "images", "link": 2}]},
    ]  # fmt: skip
    links = [[1, 1, 0, 2, 0, "*"], [2, 2, 0, 3, 0, "*"]]
    value = {"nodes": nodes, "links": links, "definitions": {"subgraphs": graphs}}
    reading = read(making.png(making.itext("workflow", json.dumps(value))))
    assert reading is not None
    assert reading.prompt == PROMPT

"""ComfyUI's workflows without the API prompt: what the editor resolves is resolved."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.reading import making
from unprompt.reading import Reading, read

Node = dict[str, Any]


def node(number: Any, kind: str, inputs: list[str] = (), widgets: Any = (), **more: Any) -> Node:  # type: ignore[assignment]
    sockets = [{"name": name, "type": "*"} for name in inputs]
    outputs = more.pop("outputs", [{"name": "x", "type": "*"}])
    values = widgets if isinstance(widgets, dict) else list(widgets)
    return {
        "id": number, "type": kind, "inputs": sockets, "outputs": outputs,
        "widgets_values": values, **more,
    }  # fmt: skip


def workflow(nodes: list[Node], links: list[Any], **more: Any) -> Reading:
    whole = {"nodes": nodes, "links": [[i, *link, "*"] for i, link in enumerate(links)], **more}
    reading = read(making.png(making.text("workflow", json.dumps(whole))))
    assert reading is not None
    return reading


SAVE = node(9, "SaveImage", ["images"])
DECODE = node(8, "VAEDecode", ["samples", "vae"])
SAMPLER = node(
    3,
    "KSampler",
    ["model", "positive", "negative", "latent_image"],
    [5, "randomize", 20, 7.5, "euler", "karras", 1.0],
)
MODEL = node(4, "CheckpointLoaderSimple", [], ["m.safetensors"])
LATENT = node(5, "EmptySD3LatentImage", [], [640, 512, 1])
FOX = node(6, "CLIPTextEncode", ["clip"], ["a fox"])
DOG = node(7, "CLIPTextEncode", ["clip"], ["dog"])
ALL = [SAVE, DECODE, SAMPLER, MODEL, LATENT, FOX, DOG]
BASE = [(8, 0, 9, 0), (3, 0, 8, 0), (4, 0, 3, 0), (5, 0, 3, 3), (7, 0, 3, 2)]


def test_a_plain_workflow() -> None:
    reading = workflow(ALL, [*BASE, (6, 0, 3, 1)])
    assert (reading.prompt, reading.negative_prompt) == ("a fox", "dog")
    settings = reading.settings
    assert (settings.seed, settings.steps, settings.guidance) == (5, 20, 7.5)
    assert (settings.sampler, settings.model) == ("euler", "m.safetensors")
    assert settings.size == (640, 512)


def test_muted_and_bypassed_nodes() -> None:
    bypassed = node(10, "ControlNetApply", ["conditioning"], [], mode=4)
    reading = workflow([*ALL, bypassed], [*BASE, (6, 0, 10, 0), (10, 0, 3, 1)])
    assert reading.prompt == "a fox"
    muted = [*ALL[:-2], {**FOX, "mode": 2}, DOG]
    assert workflow(muted, [*BASE, (6, 0, 3, 1)]).prompt is None


def test_set_and_get() -> None:
    nodes = [*ALL, node(10, "SetNode", ["x"], ["words"]), node(11, "GetNode", [], ["words"])]
    reading = workflow(nodes, [*BASE, (6, 0, 10, 0), (11, 0, 3, 1)])
    assert reading.prompt == "a fox"
    lost = [*ALL, node(11, "GetNode", [], ["nothing"])]
    assert workflow(lost, [*BASE, (11, 0, 3, 1)]).prompt is None


def test_texts_of_unknown_widgets_are_joined() -> None:
    encoder = node(6, "CLIPTextEncode", ["clip", "text"], ["stale"])
    join = node(10, "Text Concatenate", ["text_a", "text_b"], [" + ", "true"])
    words = [node(11, "String", [], ["a fox"]), node(12, "easy positive", [], ["in snow"])]
    power = node(7, "Power Prompt (rgthree)", ["clip"], ["dog", "CHOOSE", "CHOOSE", "CHOOSE"])
    links = [*BASE, (6, 0, 3, 1), (10, 0, 6, 1), (11, 0, 10, 0), (12, 0, 10, 1)]
    reading = workflow([*ALL[:-2], encoder, join, *words, power], links)
    assert (reading.prompt, reading.negative_prompt) == ("a fox + in snow", "dog")


def test_widgets_that_became_inputs() -> None:
    encoder = node(6, "CLIPTextEncode", ["clip"], ["stale"])
    encoder["inputs"].append({"name": "text", "type": "STRING", "widget": {"name": "text"}})
    words = node(10, "PrimitiveNode", [], ["a fox", "fixed"])
    nodes = [*ALL[:-2], encoder, DOG, words]
    reading = workflow(nodes, [*BASE, (6, 0, 3, 1), (10, 0, 6, 1)])
    assert reading.prompt == "a fox"


def test_named_widgets() -> None:
    widgets = ["text", "seed", "mode"]
    named = node(6, "Wildcard Encode", [], ["a fox", 5, "randomize", "populate"])
    named["inputs"] = [{"name": name, "type": "*", "widget": {"name": name}} for name in widgets]
    mapped = node(7, "Any Encode", [], {"text": "dog", "other": 3})
    reading = workflow([*ALL[:-2], named, mapped], [*BASE, (6, 0, 3, 1)])
    assert (reading.prompt, reading.negative_prompt) == ("a fox", "dog")


@pytest.mark.parametrize(
    ("typed", "queued"),
    [
        ("a fox, /* not\nyet */ snow // later", "a fox,  snow "),
        ("a // b /* c\nd */ e", "a \nd */ e"),
        ("a fox /* and // so on", "a fox /* and // so on"),
        ("/*/ x */a {red|blue} fox", "a {red|blue} fox"),
    ],
)
def test_comments_are_not_queued(typed: str, queued: str) -> None:
    fox = node(6, "CLIPTextEncode", ["clip"], [typed])
    reading = workflow([*ALL[:-2], fox, DOG], [*BASE, (6, 0, 3, 1)])
    assert reading.prompt == queued


def test_sizes_and_steps_of_unnamed_widgets() -> None:
    sampler = node(3, "SamplerCustom", ["positive", "negative", "sigmas", "latent_image"],
                   [True, 5, "randomize", 1.0])  # fmt: skip
    nodes = [
        *(SAVE, DECODE, sampler, FOX, DOG),
        node(10, "SDTurboScheduler", ["model"], [1, 1.0]),
        node(11, "WanImageToVideo", ["positive"], [832, 480, 33, 1]),
    ]
    ends = [(8, 0, 9, 0), (3, 0, 8, 0), (6, 0, 3, 0), (7, 0, 3, 1), (10, 0, 3, 2), (11, 0, 3, 3)]
    settings = workflow(nodes, ends).settings
    assert (settings.seed, settings.steps, settings.size) == (5, 1, (832, 480))


def test_subgraphs() -> None:
    inner_encoder = node(1, "CLIPTextEncode", ["clip", "text"], ["stale"])
    inner = {
        "id": "uuid-1",
        "inputs": [{"name": "words"}],
        "nodes": [inner_encoder, node(2, "Reroute", [""])],
        "links": [
            {"id": 1, "origin_id": -10, "origin_slot": 0, "target_id": 1, "target_slot": 1},
            {"id": 2, "origin_id": 1, "origin_slot": 0, "target_id": 2, "target_slot": 0},
            {"id": 3, "origin_id": 2, "origin_slot": 0, "target_id": -20, "target_slot": 0},
            {"id": 4},
            "nonsense",
        ],
    }
    nodes = [*ALL, node(10, "uuid-1", ["words"]), node(11, "String", [], ["a wolf"])]
    links = [*BASE, (11, 0, 10, 0), (10, 0, 3, 1)]
    reading = workflow(nodes, links, definitions={"subgraphs": [inner]})
    assert reading.prompt == "a wolf"


PROMOTED = {
    "id": "uuid-2",
    "inputs": [{"name": "text"}],
    "nodes": [
        {
            **node(1, "CLIPTextEncode", [], ["stale"]),
            "inputs": [{"name": "text", "type": "STRING", "widget": {"name": "text"}}],
        }
    ],
    "links": [[1, -10, 0, 1, 0, "STRING"], [2, 1, 0, -20, 0, "*"]],
}


def test_widgets_promoted_to_a_subgraph() -> None:
    named = node(10, "uuid-2", [], ["a fox"])
    named["inputs"] = [{"name": "text", "type": "STRING", "widget": {"name": "text"}}]
    proxied = node(10, "uuid-2", ["text"], ["a fox"], properties={"proxyWidgets": [["-1", "text"]]})
    proxied["inputs"][0]["widget"] = {"name": "text"}
    for outer in (named, proxied):
        links = [*BASE, (10, 0, 3, 1)]
        reading = workflow([*ALL, outer], links, definitions={"subgraphs": [PROMOTED]})
        assert reading.prompt == "a fox"
    linked = [*links, (11, 0, 10, 0)]
    nodes = [*ALL, named, node(11, "PrimitiveNode", [], ["a wolf", "fixed"])]
    assert workflow(nodes, linked, definitions={"subgraphs": [PROMOTED]}).prompt == "a wolf"
    inner = node(10, "uuid-2", [], [])  # nothing stands on the node: the inner value holds
    reading = workflow([*ALL, inner], links, definitions={"subgraphs": [PROMOTED]})
    assert reading.prompt == "stale"


def test_muted_and_bypassed_subgraphs() -> None:
    outer = node(10, "uuid-2", ["text"], ["a fox"], mode=2)
    links = [*BASE, (10, 0, 3, 1)]
    definitions = {"subgraphs": [PROMOTED]}
    assert workflow([*ALL, outer], links, definitions=definitions).prompt is None
    bypassed = [*ALL, {**outer, "mode": 4}]
    reading = workflow(bypassed, [*links, (6, 0, 10, 0)], definitions=definitions)
    assert reading.prompt == "a fox"


def test_encoders_of_several_texts_without_names() -> None:
    flux = node(6, "CLIPTextEncodeFlux", ["clip"], ["fox", "a long fox", 3.5])
    reading = workflow([*ALL[:-2], flux, DOG], [*BASE, (6, 0, 3, 1)])
    assert reading.prompt == "a long fox"
    wild = node(6, "ImpactWildcardEncode", ["clip"], ["a {x}", "a fox", "populate", "Select", "x"])
    reading = workflow([*ALL[:-2], wild, DOG], [*BASE, (6, 0, 3, 1)])
    assert reading.prompt == "a fox"


def test_group_nodes() -> None:
    group = {
        "nodes": [
            {"type": "CLIPTextEncode", "inputs": [{"name": "clip"}], "widgets_values": ["x"],
             "outputs": [{"type": "*"}]},
            {"type": "Apply", "inputs": [{"name": "conditioning"}], "widgets_values": [1.0],
             "outputs": [{"type": "*"}]},
        ],
        "links": [[0, 0, 1, 0, 1, "*"], [None, 0, 1, 0], "nonsense"],
    }  # fmt: skip
    grouped = node(10, "workflow>mine", ["clip"], ["a fox", 0.5])
    reading = workflow(
        [*ALL, grouped], [*BASE, (10, 0, 3, 1)], extra={"groupNodes": {"mine": group}}
    )
    assert reading.prompt == "a fox"


def test_subgraphs_that_hold_themselves_end() -> None:
    inner = {"id": "u", "nodes": [node(1, "u", ["x"]), node(2, "u")], "links": [], "inputs": []}
    nodes = [*ALL, node(10, "u", ["x"])]
    links = [*BASE, (10, 0, 3, 1)]
    assert workflow(nodes, links, definitions={"subgraphs": [inner]}).prompt is None
    ring = [[1, -10, 0, -20, 0, "*"]]
    inner = {"id": "u", "nodes": [node(1, "X")], "links": ring, "inputs": [{"name": "x"}]}
    links = [*BASE, (10, 0, 3, 1), (10, 0, 10, 0)]
    assert workflow(nodes, links, definitions={"subgraphs": [inner]}).prompt is None


def test_the_api_prompt_comes_first() -> None:
    whole = making.api(
        n3=("KSampler", {"positive": ["6", 0], "model": ["6", 1]}),
        n6=("CLIPTextEncode", {"text": "as run"}),
        n9=("SaveImage", {"images": ["3", 0]}),
    )
    flow = json.dumps({"nodes": ALL, "links": [[0, *link, "*"] for link in [*BASE, (6, 0, 3, 1)]]})
    reading = read(making.png(making.text("workflow", flow), making.text("prompt", whole)))
    assert reading is not None
    assert reading.prompt == "as run"

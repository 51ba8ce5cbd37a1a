"""ComfyUI graphs as workflow only and as API prompt: does the exact route read the same prompt?

    python benchmarks/comfyui_templates.py [--package comfyui-workflow-templates-json] [--show]

Downloads the package of ComfyUI's public templates from PyPI into a temporary folder. Each
workflow is converted to the API form by the rules of ComfyUI's editor, written here once more and
not shared with `unprompt.reading`, and both forms are read. A trace of its own, which only follows
links from the outputs to the positive side and gives up where a text is computed, gives the true
prompt of the graphs in which exactly one text is possible. Agreement is counted over those.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unprompt.reading.family_registry import ask_families
from unprompt.reading.image_texts import ImageTexts
from unprompt.reading.result import Field, Reading

AFTER_SEED = {"fixed", "increment", "decrement", "randomize", "increment-wrap"}
LINK_ONLY = re.compile(r"IMAGE|LATENT|MODEL|CLIP|VAE|CONDITIONING|MASK|VIDEO|AUDIO|NOISE|SIGMAS")
WIDGETS = {
    "CLIPTextEncode": ["text"],
    "GeminiNanoBanana2": ["prompt", "model"],
    "CLIPTextEncodeFlux": ["clip_l", "t5xxl", "guidance"],
    "CLIPTextEncodeSD3": ["clip_l", "clip_g", "t5xxl", "empty_padding"],
    "CLIPTextEncodeHiDream": ["clip_l", "clip_g", "t5xxl", "llama"],
    "CLIPTextEncodeSDXLRefiner": ["ascore", "width", "height", "text"],
    "CLIPTextEncodeLumina2": ["system_prompt", "user_prompt"],
    "TextEncodeAceStepAudio": ["tags", "lyrics", "lyrics_strength"],
    "TextEncodeAceStepAudio1.5": ["tags", "lyrics"],
    "PrimitiveStringMultiline": ["value"],
    "PrimitiveString": ["value"],
    "PrimitiveBoolean": ["value"],
    "PrimitiveInt": ["value", "control"],
    "ComfySwitchNode": ["switch"],
    "StringConcatenate": ["string_a", "string_b", "delimiter"],
    "StringReplace": ["string", "find", "replace"],
    "StringFormat": ["f_string"],
    "StringTrim": ["string", "mode"],
    "RegexExtract": ["string", "regex_pattern", "mode", "case_insensitive"],
    "RegexReplace": ["string", "regex_pattern", "replace"],
    "JsonExtractString": ["json_string", "key"],
    "KSampler": ["seed", "control", "steps", "cfg", "sampler_name", "scheduler", "denoise"],
    "CLIPLoader": ["clip_name", "type", "device"],
}
ENCODERS = re.compile(r"^TextEncode|^CLIPTextEncode")
TEXTS = ("text", "prompt", "clip_l", "clip_g", "t5xxl", "llama", "text_g", "text_l", "user_prompt")
TEXTS += ("value", "tags", "prompt_text", "model.prompt", "positive")
AWAY = ("negative", "model", "clip", "vae", "image", "latent", "samples", "mask", "noise", "sigmas")
AWAY += ("sampler", "control_net", "pixels", "audio", "video", "frames", "width", "height")
UNKNOWABLE = re.compile(
    r"^String|^Regex|^Json|Switch|TextGenerate|Gemini(?!.*Image|Nano)|Claude|Chat|LLM|Combo|"
    r"QwenVL|Seed(?:Node)|OpenRouterLLM|BuildJson|GetItem|LayoutPrompt|FormatText|ListFrom|PreviewAny"
)
NO_PROMPT = re.compile(r"^Load|Math|GLSL|Sigmas|Note|Painter|Expression|Dialogue|^KlingVideoNode")
OUTPUTS = re.compile(r"^Save|^Preview|VideoCombine")
NO_IMAGE = re.compile(
    r"RemoveBackground|SAM|Segment|Detect|Music|Speech|Voice|Audio|SFX|Sound|TextGenerate|Chat|Claude|Gemini(?:Node)"
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--package", default="comfyui-workflow-templates-json")
    parser.add_argument("--show", action="store_true", help="print every disagreement")
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    for name, workflow in templates(options.package):
        counts["graphs"] += 1
        api = to_api(workflow)
        of_api = prompt_of(api, "prompt")
        of_workflow = prompt_of(workflow, "workflow")
        answer = of_workflow.prompt if of_workflow else None
        if texts_agree(of_api, of_workflow):
            counts["both forms agree"] += 1
        possible = texts_behind(api)
        if answer and answer not in possible and is_option_word(answer):
            counts["option words"] += 1
            print(f"option word: {name}: {answer!r}")
        if len(possible) != 1:
            continue
        (truth,) = possible
        counts["one text possible"] += 1
        counts["API form right"] += bare(of_api) == truth.strip(" ,\n")
        certain = of_workflow is not None and of_workflow.certain
        if bare(of_workflow) == truth.strip(" ,\n"):
            counts["workflow right"] += 1
            counts["workflow right and certain"] += certain
            continue
        counts["workflow silent" if not bare(of_workflow) else "workflow wrong"] += 1
        counts["workflow wrong but certain"] += certain and bool(bare(of_workflow))
        if options.show:
            print(f"{name}\n  truth {truth[:90]!r}\n  API   {bare(of_api)[:90]!r}")
            print(f"  workflow {bare(of_workflow)[:90]!r}")
    for key, count in counts.items():
        print(f"{key:28} {count:5}")
    share = counts["workflow right"] / max(1, counts["one text possible"])
    print(f"workflow right: {100 * share:.1f} %")
    return 0 if share >= 0.99 and not counts["option words"] else 1


def templates(package: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The workflows of the package, by their names."""
    with tempfile.TemporaryDirectory() as folder:
        download = ["download", "--quiet", "--no-deps", "--dest", folder, package]
        subprocess.run([sys.executable, "-m", "pip", *download], check=True)
        for wheel in Path(folder).glob("*.whl"):
            with zipfile.ZipFile(wheel) as files:
                for name in sorted(files.namelist()):
                    if name.endswith(".json"):
                        value = json.loads(files.read(name))
                        if isinstance(value, dict) and value.get("nodes"):
                            yield Path(name).stem, value


def prompt_of(graph: dict[str, Any], key: str) -> Reading | None:
    return ask_families(ImageTexts([Field("PNG tEXt", key, json.dumps(graph))], "PNG"))


def bare(reading: Reading | None) -> str:
    return ((reading.prompt if reading else None) or "").strip(" ,\n")


def as_queued(name: str, value: Any) -> Any:
    """A text without its comments, which the editor removes."""
    if name in TEXTS and isinstance(value, str):
        return re.sub(r"/\*.*?\*/|//[^\n]*", "", value, flags=re.DOTALL)
    return value


def texts_agree(one: Reading | None, other: Reading | None) -> bool:
    return bare(one) == bare(other)


def is_option_word(text: str) -> bool:
    """A colour, a number, a file, a size, or one word without a space."""
    return re.fullmatch(r"#?\w+|[\d.:x ]+|\S+\.\w{2,5}|[\w.-]*\d[\w.-]*", text.strip()) is not None


def to_api(workflow: dict[str, Any]) -> dict[str, Any]:
    """The API form, as the editor would queue it."""
    definitions = workflow.get("definitions") or {}
    subgraphs = {item["id"]: item for item in definitions.get("subgraphs", ())}
    nodes: dict[str, dict[str, Any]] = {}
    feeds: dict[tuple[str, int], tuple[str, int]] = {}
    outs: dict[tuple[str, int], tuple[str, int]] = {}
    outer: dict[str, dict[str, Any]] = {}
    overrides: dict[tuple[str, str], Any] = {}

    def add(scope: dict[str, Any], prefix: str) -> None:
        for node in scope["nodes"]:
            key = f"{prefix}{node['id']}"
            nodes[key] = node
            inner = subgraphs.get(node["type"])
            if inner and node.get("mode", 0) not in (2, 4):
                outer[key] = promoted(node, inner, key, overrides)
                add(inner, f"{key}:")
        for link in scope.get("links", ()):
            if isinstance(link, dict):
                source, target = link["origin_id"], link["target_id"]
                ends = link["origin_slot"], link["target_slot"]
            else:
                _, source, one, target, two = link[:5]
                ends = one, two
            if str(target) == "-20":
                outs[prefix[:-1], ends[1]] = (f"{prefix}{source}", ends[0])
            else:
                feeds[f"{prefix}{target}", ends[1]] = (f"{prefix}{source}", ends[0])

    def source_of(key: str, slot: int) -> Any:
        """A link to a node that is run, ``("value", x)`` of an outer widget, or None."""
        link = feeds.get((key, slot))
        while link is not None:
            node, out = link
            if node.endswith("-10"):
                owner = node[:-3].rstrip(":")
                name = subgraphs[nodes[owner]["type"]]["inputs"][out]["name"]
                sockets = [item["name"] for item in nodes[owner].get("inputs", ())]
                position = sockets.index(name) if name in sockets else -1
                if (owner, position) not in feeds:
                    return ("value", outer[owner][name]) if name in outer[owner] else None
                link = feeds[owner, position]
                continue
            if link in outs:
                link = outs[link]
                continue
            raw = nodes.get(node)
            if raw is None or raw.get("mode") == 2:
                return None
            if raw.get("mode") == 4 or raw["type"] == "Reroute":
                wanted = raw.get("outputs", [{}] * (out + 1))[out].get("type")
                link = next(
                    (
                        feeds[node, index]
                        for index, item in enumerate(raw.get("inputs", ()))
                        if (item.get("type") in (wanted, "*") or raw["type"] == "Reroute")
                        and (node, index) in feeds
                    ),
                    None,
                )
                continue
            if raw["type"] == "PrimitiveNode":
                return ("value", raw["widgets_values"][0])
            return [node, out]
        return None

    add(workflow, "")
    api: dict[str, Any] = {}
    for key, node in nodes.items():
        if node.get("mode", 0) in (2, 4) or node["type"] in subgraphs:
            continue
        if node["type"] in ("Note", "MarkdownNote", "Reroute", "PrimitiveNode"):
            continue
        inputs = widgets(node)
        for (place, name), value in overrides.items():
            if place == key:
                inputs[name] = value
        for slot, socket in enumerate(node.get("inputs") or ()):
            source = source_of(key, slot)
            if isinstance(source, tuple):
                inputs[socket["name"]] = source[1]
            elif source is not None:
                inputs[socket["name"]] = source
        api[key] = {"class_type": node["type"], "inputs": inputs}
    return api


def promoted(
    node: dict[str, Any],
    inner: dict[str, Any],
    key: str,
    overrides: dict[tuple[str, str], Any],
) -> dict[str, Any]:
    """The values that stand on the node of a sub-graph, by the names of its inputs."""
    values = without_controls(node.get("widgets_values") or [])
    inputs = [item["name"] for item in inner["inputs"] if not LINK_ONLY.search(item["type"])]
    proxies = (node.get("properties") or {}).get("proxyWidgets") or []
    proxies = [proxy for proxy in proxies if proxy[1] != "control_after_generate"]
    if len(values) == len(inputs):
        return dict(zip(inputs, values, strict=True))
    if len(values) == len(proxies):
        for (place, name), value in zip(proxies, values, strict=True):
            if str(place) != "-1":
                overrides[f"{key}:{place}", name] = value
        return {n: v for (p, n), v in zip(proxies, values, strict=True) if str(p) == "-1"}
    return dict(zip(inputs, values, strict=False))


def without_controls(values: list[Any]) -> list[Any]:
    return [value for value in values if not (isinstance(value, str) and value in AFTER_SEED)]


def widgets(node: dict[str, Any]) -> dict[str, Any]:
    """The values of a node's widgets by name; the longest text of an unknown one is its prompt."""
    values = node.get("widgets_values") or []
    if isinstance(values, dict):
        return dict(values)
    named = [item["widget"]["name"] for item in node.get("inputs") or () if item.get("widget")]
    names = WIDGETS.get(node["type"])
    if names is None and len(named) == len(without_controls(values)):
        names, values = named, without_controls(values)
    if names is not None:
        return {n: as_queued(n, v) for n, v in zip(names, values, strict=False)}
    found = {f"widget_{index}": value for index, value in enumerate(values)}
    texts = [
        value
        for value in values
        if isinstance(value, str)
        and len(value.split()) >= 5
        and not re.match(r"\W*(You are|As an|.{0,20}SYSTEM PROMPT)", value)
    ]
    if texts and not any(name in TEXTS for name in named) and not NO_PROMPT.search(node["type"]):
        found["prompt"] = max(texts, key=len)
    return found


def prompts_in(node: dict[str, Any]) -> list[str]:
    """Names of the inputs of a node that takes a prompt itself."""
    names = [name for name in node["inputs"] if re.search(r"(^|[._])prompt(_text)?$", name)]
    return [name for name in names if not re.search("negative|system", name)]


def texts_behind(api: dict[str, Any]) -> set[str]:
    """Every text that the images of a graph may have as prompt; empty where one is computed."""
    texts: set[str] = set()
    unknown = False

    def collect(key: str, seen: set[str]) -> None:
        nonlocal unknown
        node = api.get(key)
        if node is None or key in seen:
            return
        seen.add(key)
        if UNKNOWABLE.search(node["class_type"]):
            unknown = True
            return
        if "ZeroOut" in node["class_type"]:
            return
        for name, value in node["inputs"].items():
            if isinstance(value, list) and len(value) == 2 and str(value[0]) in api:
                if not name.startswith(AWAY) or name == "model.prompt":
                    collect(str(value[0]), seen)
            elif name in TEXTS and isinstance(value, str) and value.strip():
                texts.add(value)

    behind: list[str] = []
    for key, node in api.items():
        if OUTPUTS.search(node["class_type"]):
            behind.append(key)
    seen = set(behind)
    sampled = False
    makers: list[dict[str, Any]] = []
    for key in behind:
        node = api[key]
        positive = node["inputs"].get("positive", node["inputs"].get("conditioning"))
        is_link = isinstance(positive, list) and str(positive[0]) in api
        if is_link and not NO_IMAGE.search(node["class_type"]):
            sampled = True
            collect(str(positive[0]), set())
        elif prompts_in(node):
            makers.append(node)
        for value in node["inputs"].values():
            if isinstance(value, list) and len(value) == 2 and str(value[0]) in api:
                source = str(value[0])
                if source not in seen:
                    seen.add(source)
                    behind.append(source)
    if not sampled:
        for node in makers:
            if NO_IMAGE.search(node["class_type"]) or UNKNOWABLE.search(node["class_type"]):
                continue
            if ENCODERS.search(node["class_type"]):
                continue
            for name in prompts_in(node):
                value = node["inputs"][name]
                if isinstance(value, list) and len(value) == 2:
                    collect(str(value[0]), set())
                elif isinstance(value, str) and value.strip():
                    texts.add(value)
    return set() if unknown else texts


if __name__ == "__main__":
    sys.exit(main())

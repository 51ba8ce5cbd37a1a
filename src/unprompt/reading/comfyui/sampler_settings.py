"""The settings of a sampler: from its own widgets and from the nodes that feed it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from unprompt.reading.comfyui.graph import Graph, Node, plain_value
from unprompt.reading.comfyui.input_traits import GUIDANCE, LATENT, MODEL, SAMPLING
from unprompt.reading.result import Lora, Settings, as_float, as_int, as_text

_MAX_NODES = 500
_WEIGHTS = (
    *("strength_model", "strength{number}", "{name}_strength", "strength", "lora_model_strength"),
    *("model_weight{number}", "model_str{number}", "lora_wt{number}"),
)
"""Names of the input with a LoRA's weight."""
_MODELS = ("ckpt_name", "unet_name", "model_name", "base_ckpt_name", "diffusion_name", "model_path")


def settings_of(graph: Graph, sampler: Node) -> Settings:
    """The settings that a sampler node and the nodes behind its inputs state."""
    near = _behind(graph, sampler, SAMPLING)

    def value(*names: str) -> Any:
        for node in near:
            for name in names:
                found = node.inputs.get(name)
                if name in node.links:
                    found = plain_value(graph, node, name)
                if found is not None:
                    return found
        return None

    models = _behind(graph, sampler, MODEL)
    model = _model(models)
    width, height = _size(graph, _behind(graph, sampler, LATENT))
    guidance = as_float(value("cfg", "cfg_conds", "guidance_scale"))
    if guidance is None:
        guidance = _distilled(graph, sampler)
    return Settings(
        model=model,
        seed=as_int(value("seed", "noise_seed", "seed_value")),
        steps=as_int(value("steps", "num_steps")),
        sampler=as_text(value("sampler_name", "sampler")),
        scheduler=as_text(value("scheduler")),
        guidance=guidance,
        width=width,
        height=height,
        denoise=as_float(value("denoise")),
        loras=tuple(_loras(models)),
    )


def _model(models: list[Node]) -> str | None:
    """The model file of the nearest loader."""
    for node in models:
        for name in _MODELS:
            if name in node.inputs and (model := node.text(name)):
                return model
    return None


def _behind(graph: Graph, start: Node, towards: int) -> list[Node]:
    """``start`` and the nodes that feed it through inputs with this trait, nearest first."""
    if not start.traits & towards:
        return [start]
    names = graph.names
    behind, seen = [start], {start.id}
    for node in behind:  # grows during the loop
        # A node with one link only passes it on, whatever its name: a reroute.
        lone = len(node.links) == 1 and node is not start
        for name, source in node.links.items():
            if (names[name] & towards or lone) and source not in seen and source in graph:
                seen.add(source)
                behind.append(graph[source])
        if len(seen) >= _MAX_NODES:
            break
    return behind


def _size(graph: Graph, latents: list[Node]) -> tuple[int | None, int | None]:
    """Size of the empty latent; a later resize does not count."""
    for node in reversed(latents):
        if "width" in node.inputs:
            width = as_int(plain_value(graph, node, "width"))
            height = as_int(plain_value(graph, node, "height"))
            if width and height:
                return width, height
    return None, None


def _distilled(graph: Graph, sampler: Node) -> float | None:
    """Distilled guidance, which Flux states behind the conditioning."""
    for node in _behind(graph, sampler, GUIDANCE):
        if "guidance" in node.inputs:
            return as_float(plain_value(graph, node, "guidance"))
    return None


def _loras(models: list[Node]) -> Iterator[Lora]:
    """LoRAs by file: one per node, several by number, or the objects of rgthree's loader."""
    for node in models:
        for name, value in node.inputs.items():
            if value.__class__ is dict:
                if value.get("on") is not False and (file := as_text(value.get("lora"))):
                    yield Lora(file, as_float(value.get("strength")))
                continue
            if value.__class__ is not str or name[:4].lower() != "lora":
                continue
            if "name" not in name.lower() and not value.endswith(".safetensors"):
                continue
            if value.strip().lower() in ("none", ""):
                continue
            number = name.lower().removeprefix("lora").removeprefix("_name")
            if node.inputs.get(f"switch{number}") == "Off":
                continue
            weights = (form.format(number=number, name=name) for form in _WEIGHTS)
            yield Lora(
                value,
                next(
                    (w for key in weights if (w := as_float(node.inputs.get(key))) is not None),
                    None,
                ),
            )

"""The settings of a sampler: its own widgets, and those of the nodes that feed it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from unprompt.reading.answer import Lora, Settings, as_float, as_int, as_text
from unprompt.reading.comfyui.graph import Graph, Link, Node

_MAX_NODES = 500
_MODELS = ("ckpt_name", "unet_name", "model_name", "base_ckpt_name", "diffusion_name", "model_path")
_TOWARDS_MODEL = ("model", "guider", "pipe", "context", "ctx", "unet")
_TOWARDS_SIZE = ("latent", "samples", "optional_latent")
_PLAIN_INPUTS = ("value", "number", "int", "float", "seed", "a", "Value", "Number")


def settings_of(graph: Graph, sampler: Node) -> Settings:
    """What a sampler node and the nodes behind its inputs state."""
    near = list(_behind(graph, sampler, ("noise", "sigmas", "sampler", "guider")))

    def value(*names: str) -> Any:
        for node in near:
            for name in names:
                if name in node.inputs and (found := _plain(graph, node, name)) is not None:
                    return found
        return None

    models = list(_behind(graph, sampler, _TOWARDS_MODEL))
    loader = next((n for n in models if any(n.text(name) for name in _MODELS)), None)
    model = (
        next((loader.text(name) for name in _MODELS if loader.text(name)), None) if loader else None
    )
    latents = list(_behind(graph, sampler, _TOWARDS_SIZE))
    width, height = _size(graph, latents)
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


def _behind(graph: Graph, start: Node, towards: tuple[str, ...]) -> Iterator[Node]:
    """``start`` and the nodes that feed it through inputs of these names, nearest first."""
    queue, seen = deque([start]), {start.id}
    while queue and len(seen) < _MAX_NODES:
        node = queue.popleft()
        yield node
        for name, link in node.links:
            # A node with one input only hands it on, whatever its name: a reroute.
            onward = name.lower().startswith(towards) or (
                len(node.links) == 1 and node is not start
            )
            if onward and link.node in graph and link.node not in seen:
                seen.add(link.node)
                queue.append(graph[link.node])


def _plain(graph: Graph, node: Node, name: str) -> Any:
    """The value of an input, through a chain of nodes that only hand a value on."""
    value = node.inputs.get(name)
    for _ in range(20):
        if not isinstance(value, Link):
            return value
        source = graph.get(value.node)
        if source is None:
            return None
        names = (name, *_PLAIN_INPUTS, *source.inputs)
        value = next((source.inputs[n] for n in names if source.inputs.get(n) is not None), None)
    return None


def _size(graph: Graph, latents: list[Node]) -> tuple[int | None, int | None]:
    """Size of the empty latent; a later resize is not what was asked of the model."""
    for node in reversed(latents):
        if "width" in node.inputs:
            width = as_int(_plain(graph, node, "width"))
            height = as_int(_plain(graph, node, "height"))
            if width and height:
                return width, height
    return None, None


def _distilled(graph: Graph, sampler: Node) -> float | None:
    """Guidance that stands in the conditioning, as with Flux."""
    for node in _behind(graph, sampler, ("positive", "guider", "conditioning")):
        if "guidance" in node.inputs:
            return as_float(_plain(graph, node, "guidance"))
    return None


def _loras(models: list[Node]) -> Iterator[Lora]:
    for node in models:
        for name, value in node.inputs.items():
            if not isinstance(value, str) or not name.lower().startswith("lora"):
                continue
            if "name" not in name.lower() and not value.endswith(".safetensors"):
                continue
            if value.strip().lower() in ("none", ""):
                continue
            weights: Callable[[str], Any] = node.inputs.get
            suffix = name.lower().removeprefix("lora").removeprefix("_name")
            keys = ("strength_model", f"strength{suffix}", f"{name}_strength", "strength")
            weight = next((w for key in keys if (w := as_float(weights(key))) is not None), None)
            yield Lora(value, weight)

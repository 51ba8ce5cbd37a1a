"""Find the samplers behind the output images of a graph, and the first of them.

The search follows links backwards from the output nodes. A sampler is a node whose conditioning
leads to text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from unprompt.reading.comfyui.graph import Graph, Node
from unprompt.reading.comfyui.input_traits import BUNDLE, PICTURE, PIPE, POSITIVE, TOWARDS_TEXT
from unprompt.reading.comfyui.text_tracing import Found, Tracer

_SAVES = re.compile(r"save|output|combine|export|write", re.IGNORECASE)
_SHOWS = re.compile(r"preview|show|display|view|compare", re.IGNORECASE)
_OTHER_USES = re.compile(
    r"segment|sam[23]?(?![a-z])|dino|detect|florence|mask(?!ed)|clipseg|yolo|grounding|matting|"
    r"rembg|remove_?background|caption|interrogat|tagger|describe|vqa|chat|textgenerate|llm|"
    r"qwen[\w ]*vl|vlm|moondream|"
    r"shader|expression|geminin(?:ode)?v?\d?$|claudenode|seednode|openrouterllm|"
    r"to(?:music|sfx|speech|audio|dialogue)|soundeffect|"
    r"^(?!.*(?:video|image)).*(?:audio|voice|music|speech|sfx)",
    re.IGNORECASE,
)
"""Classes of nodes whose text is no prompt of an image: it asks for a mask, a caption, a sound."""
_MAKES_IMAGES = re.compile(
    r"edit|generat|creat|kontext|2image|to_?image|image2|img2|video|i2v|paint|fill|expand|relight|"
    r"style|upscal|enhanc|variat|remix|background|vector|api|gpt|dall|gemini|banana|flux|seed|"
    r"kling|runway|luma|pix|veo|wan|ideogram|recraft|stability|minimax|hailuo|qwen.?image|grok|"
    r"talk|avatar|animat",
    re.IGNORECASE,
)
"""Classes of nodes that change an image by a prompt, unlike those that look for something in it."""
_SAMPLER = frozenset(("model", "guider", "noise_seed", "seed", "sampler"))


@dataclass(slots=True)
class Origin:
    """A node that takes conditioning, with its positive and negative texts, the main one first.

    ``samples`` is False for a node that only passes conditioning and images on.
    """

    node: Node
    positive: tuple[Found, ...]
    negative: tuple[Found, ...]
    samples: bool = True


def origins(graph: Graph) -> list[Origin]:
    """The samplers behind the images; those nearest to the first output come first."""
    tracer = Tracer(graph)
    found = []
    behind = _behind_outputs(graph)
    for node in behind:
        if not node.traits & (TOWARDS_TEXT | BUNDLE):
            continue
        positive = tracer.texts_of(node, "positive")
        if positive and not _has_other_use(node):
            negative = tracer.texts_of(node, "negative")
            found.append(Origin(node, tuple(positive), tuple(negative), _samples(node)))
    if not found:
        for node in behind:
            positive, negative = tracer.prompted(node)
            if positive and not _has_other_use(node) and not _looks_at_image(node):
                found.append(Origin(node, tuple(positive), tuple(negative), False))
    return found


def main_origin(graph: Graph, found: list[Origin]) -> Origin:
    """The sampler that made the first version of the first output; later samplers only refine it.

    The search goes from the sampler nearest to the output back through latents and images. It
    stops at a node that combines several images.
    """
    if len(found) == 1:
        return found[0]
    whole = [o for o in found if "detailer" not in o.node.class_type.lower()] or found
    worded = [o for o in whole if o.positive[0].text.strip()] or whole
    candidates = [o for o in worded if o.samples] or worded
    known = {origin.node.id: origin for origin in candidates}
    main = candidates[0]
    seen = {main.node.id}
    before = _picture_before(graph, main.node)
    while before is not None and before.id not in seen:
        seen.add(before.id)
        main = known.get(before.id, main)
        before = _picture_before(graph, before)
    return main


def _picture_before(graph: Graph, node: Node) -> Node | None:
    """The node that gives ``node`` its image or latent, if there is exactly one."""
    names = graph.names
    links = {source for name, source in node.links.items() if names[name] & PICTURE}
    for name, source in node.links.items():
        # Stable Cascade passes the latent of the first stage inside the conditioning.
        if names[name] & POSITIVE and (before := graph.get(source)) and "stage_c" in before.links:
            links = {before.links["stage_c"]}
    return graph.get(links.pop()) if len(links) == 1 else None


def first_sampler(graph: Graph) -> Node | None:
    """The sampler nearest to the first output, even if no text reaches it."""
    for node in _behind_outputs(graph):
        if node.traits & TOWARDS_TEXT and _samples(node):
            return node
    return None


def outputs(graph: Graph) -> list[Node]:
    """Linked nodes that feed no other node: first those that save, then viewers, then others."""
    ends = [node for node in graph.values() if node.links and node.id not in graph.feeding]

    def rank(node: Node) -> int:
        if not any("image" in name or "video" in name for name in node.links):
            return 3
        if _SAVES.search(node.class_type):
            return 0
        return 1 if _SHOWS.search(node.class_type) else 2

    return sorted(ends, key=rank) if len(ends) > 1 else ends


def _has_other_use(node: Node) -> bool:
    return _OTHER_USES.search(node.class_type) is not None and "positive" not in node.links


def _looks_at_image(node: Node) -> bool:
    """Whether a node takes an image, but has neither the inputs nor the name of one that makes one.

    Its text may ask for an object, a crop or a description.
    """
    return bool(
        node.traits & PICTURE
        and _SAMPLER.isdisjoint(node.inputs)
        and not _MAKES_IMAGES.search(node.class_type)
    )


def _samples(node: Node) -> bool:
    """Whether a node has an input that only samplers have."""
    return not _SAMPLER.isdisjoint(node.inputs) or bool(node.traits & PIPE)


def _behind_outputs(graph: Graph) -> list[Node]:
    """The nodes that feed the outputs, nearest first; those behind conditioning come last."""
    names = graph.names
    behind: list[Node] = []
    conditioning: list[Node] = []
    seen: set[str] = set()
    for start in outputs(graph):
        queue = [start]
        for node in queue:  # grows during the loop
            if node is not start or _samples(node):  # some samplers also save
                behind.append(node)
            for name, source in node.links.items():
                if source not in seen and (before := graph.get(source)) is not None:
                    seen.add(source)
                    (conditioning if names[name] & TOWARDS_TEXT else queue).append(before)
    for node in conditioning:  # grows too; only samplers matter here
        if _samples(node):
            behind.append(node)
        for source in node.links.values():
            if source not in seen and (before := graph.get(source)) is not None:
                seen.add(source)
                conditioning.append(before)
    return behind

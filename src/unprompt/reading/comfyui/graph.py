"""`Graph`, nodes with inputs and links, built from ComfyUI's API prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from unprompt.reading.comfyui.input_traits import Names

MAX_NODES = 20_000
_WRAPPED = ("__value__", "content")
"""Keys of the objects in which some front ends wrap values."""
_PLAIN_INPUTS = ("value", "number", "int", "float", "seed", "a", "Value", "Number")


@dataclass(slots=True)
class Node:
    """One node of a graph.

    Attributes:
        id: its key in the graph.
        class_type: the name of its class.
        inputs: the values of its widgets by name; may also contain linked inputs, in the form
            that the file uses for links.
        links: for each linked input, the id of the node that feeds it.
        traits: the traits of all linked inputs together (see `input_traits`).
        outputs: names of its outputs, where the file lists them.
        guessed: names of inputs that are guesses by their values.
    """

    id: str
    class_type: str
    inputs: Mapping[str, Any]
    links: Mapping[str, str]
    traits: int
    outputs: tuple[str, ...] = ()
    guessed: frozenset[str] = frozenset()

    def slot(self, name: str) -> int:
        """Which output of the node behind a linked input feeds it."""
        value = self.inputs.get(name)
        slot = value[1] if value.__class__ is list and len(value) == 2 else 0
        return slot if slot.__class__ is int else 0

    def text(self, name: str) -> str | None:
        """The text of a widget; None if it is a link or not text."""
        value = self.inputs.get(name)
        return value if value.__class__ is str else None


class Graph(dict[str, Node]):
    """Nodes by id.

    Attributes:
        names: the traits of each input name.
        feeding: ids of the nodes that feed an input.
    """

    __slots__ = ("feeding", "names")

    def __init__(self) -> None:
        self.names = Names()
        self.feeding: set[str] = set()

    def put(self, node: Node) -> None:
        """Add a node, with the traits of its links."""
        for name in node.links:
            node.traits |= self.names[name]
        self.feeding.update(node.links.values())
        self[node.id] = node


def is_api_prompt(value: object) -> bool:
    """Whether a JSON value is a graph in API form: objects with a ``class_type`` by id."""
    if isinstance(value, dict):
        for node in value.values():
            if isinstance(node, dict) and isinstance(node.get("class_type"), str):
                return True
    return False


def from_api_prompt(value: Mapping[str, Any]) -> Graph:
    """The graph of an API prompt; anything but nodes, and links to missing nodes, are left out."""
    graph = Graph()
    names, feeding = graph.names, graph.feeding
    for key, node in islice(value.items(), MAX_NODES):
        if (
            node.__class__ is not dict
            or (class_type := node.get("class_type")).__class__ is not str
        ):
            continue
        stated = node.get("inputs")
        if stated.__class__ is not dict:
            stated = {}
        inputs = stated
        links: dict[str, str] = {}
        traits = 0
        for name, item in stated.items():
            form = item.__class__
            if form is dict and not item.keys().isdisjoint(_WRAPPED):
                item = item.get("__value__", item.get("content"))
                form = item.__class__
                if inputs is stated:
                    inputs = dict(stated)
                inputs[name] = item
            if form is list and len(item) == 2:
                source = item[0]
                if source.__class__ is int:
                    source = str(source)
                if source.__class__ is str and source in value:
                    links[name] = source
                    traits |= names[name]
        feeding.update(links.values())
        graph[key] = Node(key, class_type, inputs, links, traits)
    return graph


def plain_value(graph: Graph, node: Node, name: str) -> Any:
    """The value of an input, also through a chain of nodes that only pass a value on."""
    for _ in range(20):
        if name not in node.links:
            return node.inputs.get(name)
        source = graph.get(node.links[name])
        if source is None:
            return None
        names = (name, *_PLAIN_INPUTS, *source.inputs)
        following = next((n for n in names if source.inputs.get(n) is not None), None)
        if following is None:
            return None
        node, name = source, following
    return None

"""A graph of nodes with inputs, and how ComfyUI's API prompt becomes one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from unprompt.reading.comfyui.names import Names

MAX_NODES = 20_000
_WRAPPED = ("__value__", "content")
"""Keys of the objects that some front ends wrap values in."""
_PLAIN_INPUTS = ("value", "number", "int", "float", "seed", "a", "Value", "Number")


@dataclass(slots=True)
class Node:
    """One node of a graph.

    Attributes:
        id: its key in the graph.
        kind: its class.
        inputs: the values of its widgets by name; a linked input may stand here too, as whatever
            the file calls a link.
        links: for each linked input, the id of the node that feeds it.
        traits: what the names of the linked inputs tell, all together.
    """

    id: str
    kind: str
    inputs: Mapping[str, Any]
    links: Mapping[str, str]
    traits: int

    def text(self, name: str) -> str | None:
        """The text of a widget, None where it is a link or no text."""
        value = self.inputs.get(name)
        return value if value.__class__ is str else None


class Graph(dict[str, Node]):
    """Nodes by id.

    Attributes:
        names: what the names of their inputs tell.
        feeding: the ids that any input is linked to.
    """

    __slots__ = ("feeding", "names")

    def __init__(self) -> None:
        self.names = Names()
        self.feeding: set[str] = set()

    def put(self, key: str, kind: str, inputs: Mapping[str, Any], links: Mapping[str, str]) -> None:
        """Add a node."""
        traits = 0
        for name in links:
            traits |= self.names[name]
        self.feeding.update(links.values())
        self[key] = Node(key, kind, inputs, links, traits)


def is_api_prompt(value: object) -> bool:
    """Whether a JSON value is a graph in API form: an object of objects with a ``class_type``."""
    if isinstance(value, dict):
        for node in value.values():
            if isinstance(node, dict) and isinstance(node.get("class_type"), str):
                return True
    return False


def from_api_prompt(value: Mapping[str, Any]) -> Graph:
    """The graph of an API prompt; what is no node is left out, and so is a link to no node."""
    graph = Graph()
    names, feeding = graph.names, graph.feeding
    for key, node in islice(value.items(), MAX_NODES):
        if node.__class__ is not dict or (kind := node.get("class_type")).__class__ is not str:
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
        graph[key] = Node(key, kind, inputs, links, traits)
    return graph


def plain_value(graph: Graph, node: Node, name: str) -> Any:
    """The value of an input, through a chain of nodes that only hand a value on."""
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

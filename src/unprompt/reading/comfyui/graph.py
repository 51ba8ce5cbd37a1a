"""A graph of nodes with inputs, and how ComfyUI's API prompt becomes one."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any, NamedTuple

from unprompt.reading.comfyui.names import Names

MAX_NODES = 20_000


class Link(NamedTuple):
    """An input that is fed by output ``slot`` of another node."""

    node: str
    slot: int


class Node(NamedTuple):
    """One node: its class, its inputs by name, and those of them that other nodes feed."""

    id: str
    kind: str
    inputs: Mapping[str, Any]
    links: tuple[tuple[str, Link], ...]

    @classmethod
    def of(cls, key: str, kind: str, inputs: Mapping[str, Any]) -> Node:
        """A node whose links are found among its inputs."""
        links = tuple((name, v) for name, v in inputs.items() if isinstance(v, Link))
        return cls(key, kind, inputs, links)

    def text(self, name: str) -> str | None:
        """The text of a widget, None where it is a link or no text."""
        value = self.inputs.get(name)
        return value if isinstance(value, str) else None


class Graph(dict[str, Node]):
    """Nodes by id; ``names`` keeps what the names of their inputs tell."""

    def __init__(self) -> None:
        super().__init__()
        self.names = Names()


def is_api_prompt(value: object) -> bool:
    """Whether a JSON value is a graph in API form: an object of objects with a ``class_type``."""
    return isinstance(value, dict) and any(
        isinstance(node, dict) and isinstance(node.get("class_type"), str)
        for node in value.values()
    )


def from_api_prompt(value: Mapping[str, Any]) -> Graph:
    """The graph of an API prompt; what is no node is left out."""
    nodes = {
        str(key): node
        for key, node in islice(value.items(), MAX_NODES)
        if isinstance(node, dict) and isinstance(node.get("class_type"), str)
    }
    graph = Graph()
    for key, node in nodes.items():
        stated = node.get("inputs")
        inputs: dict[str, Any] = {}
        links = []
        for name, item in stated.items() if isinstance(stated, dict) else ():
            if isinstance(item, (list, dict)):
                item = _input(item, nodes)
                if isinstance(item, Link):
                    links.append((name, item))
            inputs[name] = item
        graph[key] = Node(key, node["class_type"], inputs, tuple(links))
    return graph


def _input(value: Any, nodes: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        if len(value) == 2:
            source, slot = value
            if isinstance(source, int):
                source = str(source)
            if isinstance(source, str) and source in nodes:
                return Link(source, slot if isinstance(slot, int) else 0)
        return None
    # Some front ends wrap values, and some widgets are objects; only plain ones matter.
    inner = value.get("__value__", value.get("content"))
    if isinstance(inner, list):
        return _input(inner, nodes)
    return inner if isinstance(inner, (str, int, float)) else None

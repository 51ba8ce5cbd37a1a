"""A graph of nodes with inputs, and how ComfyUI's API prompt becomes one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

MAX_NODES = 20_000


class Link(NamedTuple):
    """An input that is fed by output ``slot`` of another node."""

    node: str
    slot: int


@dataclass(frozen=True, slots=True)
class Node:
    """One node: its class, and its inputs by name, each a `Link` or a plain value."""

    id: str
    kind: str
    inputs: Mapping[str, Any] = field(default_factory=dict)
    title: str = ""

    def links(self) -> Iterator[tuple[str, Link]]:
        """The inputs that other nodes feed."""
        return ((name, value) for name, value in self.inputs.items() if isinstance(value, Link))

    def text(self, name: str) -> str | None:
        """The text of a widget, None where it is a link or no text."""
        value = self.inputs.get(name)
        return value if isinstance(value, str) else None


Graph = dict[str, Node]


def is_api_prompt(value: object) -> bool:
    """Whether a JSON value is a graph in API form: an object of objects with a ``class_type``."""
    return isinstance(value, dict) and any(
        isinstance(node, dict) and isinstance(node.get("class_type"), str)
        for node in value.values()
    )


def from_api_prompt(value: Mapping[str, Any]) -> Graph:
    """The graph of an API prompt; what is no node is left out."""
    kinds = {
        str(key): node
        for key, node in list(value.items())[:MAX_NODES]
        if isinstance(node, dict) and isinstance(node.get("class_type"), str)
    }
    graph: Graph = {}
    for key, node in kinds.items():
        inputs = node.get("inputs")
        meta = node.get("_meta")
        title = meta.get("title") if isinstance(meta, dict) else ""
        graph[key] = Node(
            key,
            node["class_type"],
            {
                name: _input(item, kinds)
                for name, item in (inputs.items() if isinstance(inputs, dict) else ())
            },
            title if isinstance(title, str) else "",
        )
    return graph


def _input(value: Any, nodes: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        if len(value) == 2 and isinstance(value[0], str | int) and str(value[0]) in nodes:
            return Link(str(value[0]), value[1] if isinstance(value[1], int) else 0)
        return None
    if isinstance(value, dict):
        # Some front ends wrap values, and some widgets are objects; only plain ones matter.
        inner = value.get("__value__", value.get("content"))
        return _input(inner, nodes) if isinstance(inner, str | int | float | list) else None
    return value

"""Build a graph from ComfyUI's workflow JSON, the form that the editor saves.

This does what the editor does when it queues a prompt: it inserts sub-graphs and group nodes,
passes through bypassed nodes, leaves out muted nodes, and joins set/get pairs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from unprompt.reading.comfyui.graph import MAX_NODES, Graph, Node
from unprompt.reading.comfyui.input_traits import OPTION, TEXT, Names
from unprompt.reading.comfyui.widgets import align, named_widgets

_MUTED, _BYPASSED = 2, 4
_MAX_DEPTH = 10
_INPUT_NODE, _OUTPUT_NODE = "-10", "-20"
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/|(/\*.*)", re.DOTALL)
"""A comment; or the text after an opening ``/*`` that is never closed, which is no comment."""
_WIDGET_TYPES = frozenset(("STRING", "INT", "FLOAT", "BOOLEAN", "COMBO"))


class Link(NamedTuple):
    """Output ``slot`` of a node."""

    node: str
    slot: int


def is_workflow(value: object) -> bool:
    """Whether a JSON value is a workflow: an object with a list of typed nodes."""
    nodes = value.get("nodes") if isinstance(value, dict) else None
    return isinstance(nodes, list) and any(isinstance(n, dict) and "type" in n for n in nodes)


def from_workflow(value: Mapping[str, Any]) -> Graph:
    """The graph of a workflow, without the nodes that only the editor uses."""
    builder = _Builder(value)
    builder.add(value, "", 0)
    return builder.resolved()


class _Builder:
    def __init__(self, workflow: Mapping[str, Any]):
        self._raw: dict[str, dict[str, Any]] = {}
        self._links: dict[tuple[str, int], Link] = {}  # (node, input index) to its source
        self._inner_outputs: dict[tuple[str, int], Link] = {}
        self._aliases: dict[tuple[str, int], tuple[str, int]] = {}
        definitions = workflow.get("definitions")
        listed = _listed(definitions, "subgraphs") if isinstance(definitions, dict) else []
        self._subgraphs = {
            item["id"]: item
            for item in listed
            if isinstance(item, dict) and isinstance(item.get("id"), str)
        }
        extra = workflow.get("extra")
        groups = extra.get("groupNodes") if isinstance(extra, dict) else None
        self._groups = groups if isinstance(groups, dict) else {}
        self._expanded: set[str] = set()  # nodes that stand for the nodes of a sub-graph
        self._promoted: dict[str, dict[str, Any]] = {}  # values of sub-graph nodes by input
        self._proxied: dict[str, dict[str, Any]] = {}  # values of inner nodes by widget

    def add(self, scope: Mapping[str, Any], prefix: str, depth: int) -> None:
        """Add the nodes and links of a workflow, or of a sub-graph with its node's id as prefix."""
        for node in _listed(scope, "nodes"):
            if not isinstance(node, dict) or len(self._raw) >= MAX_NODES:
                continue
            key = f"{prefix}{node.get('id')}"
            self._raw[key] = node
            if depth >= _MAX_DEPTH or node.get("mode") in (_MUTED, _BYPASSED):
                continue
            if inner := self._subgraphs.get(str(node.get("type"))):
                self._expanded.add(key)
                self._promote(key, node, inner)
                self.add(inner, f"{key}:", depth + 1)
            elif group := self._group(node):
                self._expanded.add(key)
                self._add_group(node, group, f"{key}:", depth)
        for source, source_slot, target, target_slot in _links(_listed(scope, "links")):
            link = Link(f"{prefix}{source}", source_slot)
            if target == _OUTPUT_NODE:
                self._inner_outputs[prefix.removesuffix(":"), target_slot] = link
            else:
                self._links[f"{prefix}{target}", target_slot] = link

    def _promote(self, key: str, node: Mapping[str, Any], inner: Mapping[str, Any]) -> None:
        """Keep the values on a sub-graph's node, which replace the values inside.

        Their order is that of the sub-graph's widget inputs, of the node's proxy widgets (pairs of
        inner node id and name; id -1 means an input), or of the node's own sockets.
        """
        outer = self._proxied.get(key, {})
        promoted = self._promoted[key] = dict(outer)
        values = _listed(node, "widgets_values")
        if isinstance(named := node.get("widgets_values"), dict):
            promoted.update((str(name), value) for name, value in named.items())
        inputs: list[tuple[str, str]] = [
            ("-1", str(item.get("name")))
            for item in _listed(inner, "inputs")
            if isinstance(item, dict) and _is_widget(item, inner)
        ]
        properties = node.get("properties")
        proxies = [
            (str(proxy[0]), str(proxy[1]))
            for proxy in _listed(properties if isinstance(properties, dict) else {}, "proxyWidgets")
            if isinstance(proxy, list) and len(proxy) > 1
        ]
        own = [
            ("-1", str(socket.get("name")))
            for socket in _sockets(node, "inputs")
            if isinstance(socket.get("widget"), dict)
        ]
        inner_only = [proxy for proxy in proxies if proxy[0] != "-1"]
        names = (
            align(inputs, values)
            or align(proxies, values)
            or align([*inputs, *inner_only], values)
            or align(own, values)
            or inputs[: len(values)]
        )
        for name, value in zip(names, values, strict=False):
            if name is not None and name[0] == "-1":
                promoted.setdefault(name[1], value)
            elif name is not None:
                inner_values = self._proxied.setdefault(f"{key}:{name[0]}", {})
                inner_values[name[1]] = outer.get(name[1], value)

    def _group(self, node: Mapping[str, Any]) -> dict[str, Any] | None:
        class_type = str(node.get("type"))
        if not class_type.startswith(("workflow/", "workflow>")):
            return None
        group = self._groups.get(class_type[9:])
        return group if isinstance(group, dict) else None

    def _add_group(
        self, node: Mapping[str, Any], group: Mapping[str, Any], prefix: str, depth: int
    ) -> None:
        """Add a group node: its widgets are those of its inner nodes, one after the other."""
        inner = [n for n in _listed(group, "nodes") if isinstance(n, dict)][:1000]
        links = [
            tuple(link[:4])
            for link in _listed(group, "links")
            if isinstance(link, list)
            and len(link) >= 4
            and all(isinstance(end, int) for end in link[:4])
        ]
        values = _listed(node, "widgets_values")
        nodes = []
        for index, item in enumerate(inner):
            own = _listed(item, "widgets_values")
            count = len(own)
            taken = values[:count] if len(values) >= count else own
            values = values[count:]
            nodes.append({**item, "id": index, "widgets_values": taken})
        internal = [[0, *link[:4], "*"] for link in links if len(link) >= 4 and link[0] is not None]
        self.add({"nodes": nodes, "links": internal}, prefix, depth + 1)
        # Inputs without an inner link are the inputs of the group, in this order.
        fed = {link[2:] for link in links}
        outer = iter(enumerate(_sockets(node, "inputs")))
        for index, item in enumerate(inner):
            for slot, socket in enumerate(_sockets(item, "inputs")):
                if (index, slot) in fed or socket.get("widget"):
                    continue
                if (following := next(outer, None)) is not None:
                    outer_key = prefix.removesuffix(":")
                    self._aliases[f"{prefix}{index}", slot] = (outer_key, following[0])
        used = {link[:2] for link in links}
        outputs = (
            (index, slot)
            for index, item in enumerate(inner)
            for slot, _ in enumerate(_sockets(item, "outputs"))
            if (index, slot) not in used
        )
        for outer_slot, (index, slot) in enumerate(outputs):
            source = Link(f"{prefix}{index}", slot)
            self._inner_outputs[prefix.removesuffix(":"), outer_slot] = source

    def resolved(self) -> Graph:
        """The finished graph."""
        setters = {
            str(_first(raw.get("widgets_values"))): key
            for key, raw in self._raw.items()
            if str(raw.get("type")) in ("SetNode", "easy setNode")
        }
        self._setters = setters
        graph = Graph()
        for key, raw in self._raw.items():
            if raw.get("mode") in (_MUTED, _BYPASSED) or key in self._expanded:
                continue
            widgets, guessed = named_widgets(raw)
            inputs = {name: _queued(name, value, graph.names) for name, value in widgets.items()}
            links: dict[str, str] = {}
            for slot, socket in enumerate(_sockets(raw, "inputs")):
                link = self._source(key, slot, 0)
                name = socket.get("name")
                if not isinstance(name, str):
                    continue
                if link is None:
                    if socket.get("widget") and (value := self._outer(key, slot, 0)) is not None:
                        inputs[name] = value
                else:
                    inputs[name] = list(link)
                    links[name] = link.node
            for name, value in self._proxied.get(key, {}).items():
                if name in inputs and name not in links:
                    inputs[name] = value
            outputs = tuple(str(socket.get("name")) for socket in _sockets(raw, "outputs"))
            graph.put(Node(key, str(raw.get("type")), inputs, links, 0, outputs, guessed))
        return graph

    def _source(self, key: str, slot: int, depth: int) -> Link | None:
        """The node that feeds an input, behind everything that the editor resolves."""
        if depth > 100:
            return None
        if alias := self._aliases.get((key, slot)):
            return self._source(*alias, depth + 1)
        link = self._links.get((key, slot))
        return None if link is None else self._behind(link, depth + 1)

    def _behind(self, link: Link, depth: int) -> Link | None:
        if depth > 100:
            return None
        if link.node.endswith(_INPUT_NODE) and link.node not in self._raw:
            outer = link.node.removesuffix(_INPUT_NODE).removesuffix(":")
            return self._source(outer, self._outer_slot(outer, link.slot), depth + 1)
        if (inner := self._inner_outputs.get((link.node, link.slot))) is not None:
            return self._behind(inner, depth + 1)
        raw = self._raw.get(link.node)
        if raw is None or raw.get("mode") == _MUTED:
            return None
        if str(raw.get("type")) in ("GetNode", "easy getNode"):
            setter = self._setters.get(str(_first(raw.get("widgets_values"))))
            return self._source(setter, 0, depth + 1) if setter else None
        if raw.get("mode") == _BYPASSED:
            return self._through(link, raw, depth + 1)
        return link

    def _outer_slot(self, key: str, slot: int) -> int:
        """The socket of a sub-graph node for input ``slot`` of the sub-graph; -1 if it has none."""
        raw = self._raw.get(key, {})
        if (name := self._input_name(raw, slot)) is not None:
            for index, socket in enumerate(_sockets(raw, "inputs")):
                if socket.get("name") == name:
                    return index
            return -1
        return slot

    def _input_name(self, raw: Mapping[str, Any], slot: int) -> str | None:
        """The name of input ``slot`` of the sub-graph that a node stands for."""
        declared = _listed(self._subgraphs.get(str(raw.get("type")), {}), "inputs")
        if 0 <= slot < len(declared) and isinstance(declared[slot], dict):
            name = declared[slot].get("name")
            return name if isinstance(name, str) else None
        return None

    def _outer(self, key: str, slot: int, depth: int) -> Any:
        """The value of an inner widget that is shown on the sub-graph's node."""
        link = self._links.get((key, slot))
        if link is None or depth > _MAX_DEPTH or not link.node.endswith(_INPUT_NODE):
            return None
        outer = link.node.removesuffix(_INPUT_NODE).removesuffix(":")
        raw = self._raw.get(outer)
        if raw is None:
            return None
        outer_slot = self._outer_slot(outer, link.slot)
        if (outer, outer_slot) in self._links:
            return self._outer(outer, outer_slot, depth + 1)
        return self._promoted.get(outer, {}).get(self._input_name(raw, link.slot) or "")

    def _through(self, link: Link, raw: Mapping[str, Any], depth: int) -> Link | None:
        """The source of a bypassed node: an input of the output's type, best in the same place."""
        outputs = list(_sockets(raw, "outputs"))
        wanted = outputs[link.slot].get("type") if 0 <= link.slot < len(outputs) else None
        inputs = list(enumerate(_sockets(raw, "inputs")))
        for slot, socket in sorted(inputs, key=lambda item: item[0] != link.slot):
            if socket.get("type") == wanted:
                source = self._source(link.node, slot, depth + 1)
                if source is not None:
                    return source
        return None


def _queued(name: str, value: Any, names: Names) -> Any:
    """The value of a widget as the editor queues it: texts without comments.

    The editor's extension Comfy.DynamicPrompts does the same. It also picks one of the
    alternatives in braces; the file does not state which, so they stay.
    """
    if isinstance(value, str) and names[name] & TEXT and not names[name] & OPTION:
        return _COMMENT.sub(r"\1", value)
    return value


def _is_widget(item: Mapping[str, Any], inner: Mapping[str, Any]) -> bool:
    """Whether an input of a sub-graph is a widget on the sub-graph's node."""
    if str(item.get("type")) in _WIDGET_TYPES:
        return True
    links = _listed(item, "linkIds")
    return any(
        socket.get("widget") and socket.get("link") in links
        for node in _listed(inner, "nodes")
        if isinstance(node, dict)
        for socket in _sockets(node, "inputs")
        if socket.get("link") is not None
    )


def _listed(holder: Mapping[str, Any], key: str) -> list[Any]:
    value = holder.get(key)
    return value if isinstance(value, list) else []


def _first(value: object) -> object:
    return value[0] if isinstance(value, list) and value else None


def _sockets(node: Mapping[str, Any], key: str) -> Iterator[dict[str, Any]]:
    for socket in _listed(node, key):
        yield socket if isinstance(socket, dict) else {}


def _links(links: list[Any]) -> Iterator[tuple[str, int, str, int]]:
    """Source, its slot, target and its slot of each link, in either form of the file."""
    for link in links:
        if isinstance(link, list) and len(link) >= 5:
            _, source, source_slot, target, target_slot = link[:5]
        elif isinstance(link, dict):
            source, source_slot = link.get("origin_id"), link.get("origin_slot")
            target, target_slot = link.get("target_id"), link.get("target_slot")
        else:
            continue
        if isinstance(source_slot, int) and isinstance(target_slot, int):
            yield str(source), source_slot, str(target), target_slot

"""Follow links from a sampler back to its text, by the names of inputs instead of node classes.

From a conditioning input the search passes through every node (combine, concat, ControlNet,
guider, pipe, switch, reroute...) to the texts that reach an encoder. The names of inputs separate
positive from negative, and text from everything else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from unprompt.reading.comfyui.graph import Graph, Node, plain_value
from unprompt.reading.comfyui.input_traits import (
    BUNDLE,
    CONDITIONING,
    ELSEWHERE,
    NEGATIVE,
    OPTION,
    POSITIVE,
    SELECTOR,
    SIDES,
    TEXT,
)

_MAX_DEPTH = 150
_MAX_STEPS = 100_000
_MAX_TEXT = 4 << 20

_SIDED = POSITIVE | NEGATIVE
_PREFERRED = ("t5xxl", "text_g", "clip_g")
_CHOICES = frozenset(("true", "false", "yes", "no", "on", "off", "enable", "disable", "none"))
_DELIMITERS = ("delimiter", "separator", "delimeter", "seperator", "delim")


@dataclass(slots=True)
class Found:
    """A text that reaches an encoder, the node that holds it, and its role if not the main text."""

    text: str
    node: str
    role: str = ""


class Tracer:
    """Follows links to texts; all calls share one limit of steps."""

    __slots__ = ("_answers", "_graph", "_names", "_steps")

    def __init__(self, graph: Graph):
        self._graph = graph
        self._steps = 0
        self._names = graph.names
        self._answers: dict[tuple[str, str, bool], list[Found]] = {}

    def texts_of(self, sampler: Node, side: str) -> list[Found]:
        """The positive or negative texts of a node that takes conditioning, main ones first."""
        names, mine = self._names, SIDES[side]
        sided = False
        for name, source in sampler.links.items():
            if names[name] & mine:
                sided = True
                if found := self._began(source, side, True):
                    return found
        if sided:
            return []
        other = _SIDED ^ mine
        for name, source in sampler.links.items():
            traits = names[name]
            if traits & other or not traits & (CONDITIONING | BUNDLE):
                continue
            if found := self._began(source, side, side == "positive"):
                return found
        return []

    def _began(self, source: str, side: str, free: bool) -> list[Found]:
        """The texts behind a link of a sampler, cached because samplers often share them."""
        key = (source, side, free)
        if key not in self._answers:
            self._answers[key] = self._conditioning(source, side, free, set(), 0)
        return self._answers[key]

    def prompted(self, node: Node) -> tuple[list[Found], list[Found]]:
        """The texts of inputs named like prompts, for pipelines without conditioning."""
        positive: list[Found] = []
        negative: list[Found] = []
        for name in node.inputs:
            traits = self._names[name]
            if traits & _SIDED or ("prompt" in name.lower() and traits & TEXT):
                side, texts = (
                    ("negative", negative) if traits & NEGATIVE else ("positive", positive)
                )
                found = self._text_input(node, name, side, set(), 0)
                if found is not None and found.text.strip():
                    texts.append(found)
        return positive, negative

    def _conditioning(
        self, source: str, side: str, free: bool, seen: set[str], depth: int
    ) -> list[Found]:
        """Texts behind a conditioning link.

        ``free`` is False until an input names the side: a guider without a negative input has no
        negative text, although its conditioning leads to a text.
        """
        node = self._enter(source, seen, depth)
        if node is None or "zeroout" in node.class_type.lower().replace("_", ""):
            return []
        names, mine = self._names, SIDES[side]
        sided: list[str] = []
        first: list[str] = []
        texts: list[str] = []
        rest: list[str] = []
        for name in node.inputs:
            traits = names[name]
            if sides := traits & _SIDED:
                if sides == mine:
                    sided.append(name)
            elif traits & CONDITIONING:
                first.append(name)
            elif traits & TEXT:
                texts.append(name)
            elif not traits & ELSEWHERE and name in node.links:
                rest.append(name)
        if sided and (found := self._gather(node, sided, side, True, seen, depth)):
            return found
        found = []
        if first:
            found = self._gather(node, self._selected(node, first), side, free, seen, depth)
        if free and texts and (own := self._encoded(node, texts, side, seen, depth)):
            if found:  # text added to other conditioning: a region, a detail
                own = [Found(item.text, item.node, item.role or "region") for item in own]
            found += own
        if found:
            return found
        for name in self._selected(node, rest):
            if found := self._conditioning(node.links[name], side, free, seen, depth + 1):
                return found
        return []

    def _gather(
        self, node: Node, names: list[str], side: str, free: bool, seen: set[str], depth: int
    ) -> list[Found]:
        found: list[Found] = []
        for name in names:
            if name in node.links:
                found += self._conditioning(node.links[name], side, free, seen, depth + 1)
            elif not self._names[name] & OPTION and (text := node.text(name)) is not None:
                found.append(Found(text, node.id))
        return found

    def _encoded(
        self, node: Node, names: list[str], side: str, seen: set[str], depth: int
    ) -> list[Found]:
        """The texts of an encoder: one, or one per text model."""
        texts: dict[str, Found] = {}
        for name in names:
            if (text := self._text_input(node, name, side, seen, depth)) is not None:
                texts[name] = text
        if len(texts) < 2:
            return list(texts.values())
        populated = {name: item for name, item in texts.items() if "populated" in name}
        if any(item.text.strip() for item in populated.values()):
            texts = populated
        order = [*_PREFERRED, *texts]
        distinct: dict[str, Found] = {}
        for name in sorted(texts, key=order.index):
            distinct.setdefault(texts[name].text, texts[name])
        found = [item for item in distinct.values() if item.text.strip()]
        if not found:
            return list(distinct.values())[:1]
        return [found[0], *(Found(item.text, item.node, "encoder") for item in found[1:])]

    def _text_input(
        self, node: Node, name: str, side: str, seen: set[str], depth: int
    ) -> Found | None:
        if (source := node.links.get(name)) is not None:
            return self._text(source, side, seen, depth + 1)
        text = node.inputs[name]
        return Found(text, node.id) if text.__class__ is str else None

    def _text(self, source: str, side: str, seen: set[str], depth: int) -> Found | None:
        """The text behind a text link.

        A node with several texts joins them. If the input names do not show text (a switch, a
        viewer), the first one counts, unless the node has a delimiter.
        """
        node = self._enter(source, seen, depth)
        if node is None:
            return None
        mine = SIDES[side]
        other = _SIDED ^ mine
        named = {n: traits for n in node.inputs if not (traits := self._names[n]) & other}
        if len(named) < len(node.inputs):
            named = {n: traits for n, traits in named.items() if traits & mine} or named
        texts = [n for n, traits in named.items() if traits & (TEXT | mine)]
        populated = [n for n in texts if "populated" in n and (node.text(n) or "").strip()]
        texts = populated or self._selected(node, _ordered(_not_shown(node, texts)))
        parts = [
            found
            for name in texts
            if (found := self._text_input(node, name, side, seen, depth)) is not None
        ]
        filled = [part for part in parts if part.text.strip()]
        delimiter = _delimiter(node)
        if not filled:
            others = [n for n, t in named.items() if not t & (OPTION | ELSEWHERE | TEXT | mine)]
            # The text that a viewer shows, if its own input cannot be followed.
            others += [n for n in named if n not in texts and named[n] & TEXT]
            for name in self._selected(node, _ordered(others)):
                found = self._text_input(node, name, side, seen, depth)
                if found is not None and found.text.strip():
                    filled.append(found)
                    if delimiter is None:
                        break
        if len(filled) > 1:
            filled = [p for p in filled if p.text.strip().lower() not in _CHOICES] or filled[:1]
        if not filled:
            return parts[0] if parts else None
        if len(filled) == 1 and "find" not in node.inputs:
            return filled[0]
        joined = (", " if delimiter is None else delimiter).join(part.text for part in filled)
        return Found(_replaced(node, joined)[:_MAX_TEXT], node.id)

    def _selected(self, node: Node, names: list[str]) -> list[str]:
        """The selected input of a switch; all inputs of other nodes."""
        if len(names) < 2:
            return names
        for name in node.inputs:
            if not self._names[name] & SELECTOR:
                continue
            value = plain_value(self._graph, node, name)
            chosen: list[str] = []
            if value.__class__ is int:
                number = str(value)
                chosen = [n for n in names if n[len(n.rstrip("0123456789")) :] == number]
            elif value.__class__ is bool:
                word = str(value).lower()
                chosen = [n for n in names if n.lower().endswith(word)]
                if not chosen and len(names) == 2:  # WAS Suite: true selects the first
                    chosen = [names[not value]]
            if chosen:
                return chosen
        return names

    def _enter(self, source: str, seen: set[str], depth: int) -> Node | None:
        self._steps += 1
        node = self._graph.get(source)
        if node is None or source in seen or depth > _MAX_DEPTH or self._steps > _MAX_STEPS:
            return None
        self._steps += len(node.inputs)
        seen.add(source)
        return node


def _ordered(names: list[str]) -> list[str]:
    """``text_a, text_b`` or ``string1, string2`` sorted; other names unchanged."""
    if len(names) < 2:
        return names
    numbered = [re.fullmatch(r"(.*?)_?(\d+|[a-z])", name) for name in names]
    stems = {match[1] for match in numbered if match}
    if all(numbered) and len(stems) == 1:
        return sorted(names, key=lambda name: (len(name), name))
    return names


def _not_shown(node: Node, names: list[str]) -> list[str]:
    """Names without the output of a viewer: ``text_0`` beside a linked ``text``."""
    return [
        name
        for name in names
        if name in node.links or name.rstrip("0123456789").removesuffix("_") not in node.links
    ]


def _replaced(node: Node, text: str) -> str:
    find, replace = node.text("find"), node.text("replace")
    return text.replace(find, replace) if find and replace is not None else text


def _delimiter(node: Node) -> str | None:
    for name in _DELIMITERS:
        if (value := node.text(name)) is not None:
            return value.replace("\\n", "\n")
    return None

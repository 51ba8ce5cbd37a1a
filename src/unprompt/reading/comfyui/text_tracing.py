"""Follow links from a sampler back to its text, by the names of inputs instead of node classes.

From a conditioning input the search passes through every node (combine, concat, ControlNet,
guider, pipe, switch, reroute...) to the texts that reach an encoder. The names of inputs separate
positive from negative, and text from everything else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

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
from unprompt.reading.comfyui.string_nodes import COMPUTED, MAX_TEXT
from unprompt.reading.comfyui.text_inputs import (
    delimiter_of,
    may_be_prompt,
    not_shown,
    of_slot,
    ordered,
    switched_on,
    with_replacement,
)

_MAX_DEPTH = 150
_MAX_STEPS = 100_000

_SIDED = POSITIVE | NEGATIVE
_NO_TEXT = OPTION | ELSEWHERE | SELECTOR
_PREFERRED = ("t5xxl", "text_g", "clip_g")
_WRITERS = re.compile(
    r"generate|llm|llama|gpt|chat|gemini|claude|openai|openrouter|grok|qwen|florence|joycaption|"
    r"caption|interrogat|tagger|describe|enhanc|vqa|seednode|random",
    re.IGNORECASE,
)
"""Classes whose text exists only while they run: language models, captioners, taggers."""


@dataclass(slots=True)
class Found:
    """A text that reaches an encoder.

    Attributes:
        text: as far as it can be known.
        node: the node that holds it.
        role: its role if it is not the main text.
        certain: False if it is a guess, or a part of it is unknown.
    """

    text: str
    node: str
    role: str = ""
    certain: bool = True


class Tracer:
    """Follows links to texts; all calls share one limit of steps."""

    __slots__ = ("_answers", "_graph", "_names", "_steps", "_texts", "_used")

    def __init__(self, graph: Graph):
        self._graph = graph
        self._steps = 0
        self._names = graph.names
        self._answers: dict[tuple[str, int, str, bool], list[Found]] = {}
        self._texts: dict[tuple[str, int, str], Found | None] = {}
        self._used: dict[str, list[int]] | None = None

    def texts_of(self, sampler: Node, side: str) -> list[Found]:
        """The positive or negative texts of a node that takes conditioning, main ones first."""
        names, mine = self._names, SIDES[side]
        sided = False
        for name, source in sampler.links.items():
            if names[name] & mine:
                sided = True
                if found := self._began(source, sampler.slot(name), side, True):
                    return found
        if sided:
            return []
        other = _SIDED ^ mine
        for name, source in sampler.links.items():
            traits = names[name]
            if traits & other or not traits & (CONDITIONING | BUNDLE):
                continue
            if found := self._began(source, sampler.slot(name), side, side == "positive"):
                return found
        return []

    def _began(self, source: str, slot: int, side: str, free: bool) -> list[Found]:
        """The texts behind a link of a sampler, cached because samplers often share them."""
        key = (source, slot, side, free)
        if key not in self._answers:
            self._answers[key] = self._conditioning(source, slot, side, free, set(), 0)
        return self._answers[key]

    def prompted(self, node: Node) -> tuple[list[Found], list[Found]]:
        """The texts of inputs named like prompts, for pipelines without conditioning."""
        positive: list[Found] = []
        negative: list[Found] = []
        for name in switched_on(node, [*node.inputs]):
            traits = self._names[name]
            if name.startswith("shown_"):
                continue
            if traits & _SIDED or ("prompt" in name.lower() and traits & TEXT):
                side, texts = (
                    ("negative", negative) if traits & NEGATIVE else ("positive", positive)
                )
                found = self._text_input(node, name, side, 0)
                if found is not None and found.text.strip():
                    texts.append(found)
        return positive, negative

    def _conditioning(
        self, source: str, slot: int, side: str, free: bool, seen: set[str], depth: int
    ) -> list[Found]:
        """Texts behind a conditioning link.

        ``free`` is False until an input names the side: a guider without a negative input has no
        negative text, although its conditioning leads to a text.
        """
        node = self._enter(source, seen, depth)
        if node is None or "zeroout" in node.class_type.lower().replace("_", ""):
            return []
        side = self._side(node, slot, side)
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
                if name in node.links:  # else an option such as set_cond_area
                    first.append(name)
            elif traits & TEXT:
                texts.append(name)
            elif not traits & ELSEWHERE and name in node.links:
                rest.append(name)
        if sided and (found := self._gather(node, sided, side, True, seen, depth)):
            return found
        found = []
        if first:
            found = self._gather(node, self._selected(node, first)[0], side, free, seen, depth)
        if free and texts and (own := self._encoded(node, texts, side, depth)):
            if found:  # text added to other conditioning: a region, a detail
                own = [
                    Found(item.text, item.node, item.role or "region", item.certain) for item in own
                ]
            found += own
        if found:
            return found
        for name in self._selected(node, rest)[0]:
            source, slot = node.links[name], node.slot(name)
            if found := self._conditioning(source, slot, side, free, seen, depth + 1):
                return found
        return []

    def _side(self, node: Node, slot: int, side: str) -> str:
        """The side that output ``slot`` carries, which differs from ``side`` if links are crossed.

        A node with both sides gives the positive one first, or names its outputs.
        """
        if 0 <= slot < len(node.outputs):
            traits = self._names[node.outputs[slot]]
            traits |= POSITIVE if node.outputs[slot].endswith("+") else 0
            traits |= NEGATIVE if node.outputs[slot].endswith("-") else 0
            if (traits & _SIDED) in (POSITIVE, NEGATIVE):
                return "positive" if traits & POSITIVE else "negative"
        sides = 0
        for name in node.inputs:
            sides |= self._names[name]
        if sides & _SIDED != _SIDED:
            return side
        used = self._used_slots(node.id)
        if len(used) > 1 and slot in used[:2]:
            return "positive" if slot == used[0] else "negative"
        both_linked = node.traits & _SIDED == _SIDED
        return "negative" if slot == 1 and both_linked and "model" not in node.links else side

    def _used_slots(self, node: str) -> list[int]:
        """The outputs of a node that feed conditioning or text, in order."""
        if self._used is None:
            used: dict[str, set[int]] = {}
            for other in self._graph.values():
                for name, source in other.links.items():
                    if self._names[name] & (_SIDED | CONDITIONING | TEXT):
                        used.setdefault(source, set()).add(other.slot(name))
            self._used = {source: sorted(slots) for source, slots in used.items()}
        return self._used.get(node, [])

    def _gather(
        self, node: Node, names: list[str], side: str, free: bool, seen: set[str], depth: int
    ) -> list[Found]:
        found: list[Found] = []
        for name in names:
            if name in node.links:
                source, slot = node.links[name], node.slot(name)
                found += self._conditioning(source, slot, side, free, seen, depth + 1)
            elif not self._names[name] & OPTION and (text := node.text(name)) is not None:
                found.append(self._own(node, name, text))
        return found

    def _encoded(self, node: Node, names: list[str], side: str, depth: int) -> list[Found]:
        """The texts of an encoder: one, or one per text model."""
        texts: dict[str, Found] = {}
        for name in switched_on(node, names):
            if (text := self._text_input(node, name, side, depth)) is not None:
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
        others = [Found(item.text, item.node, "encoder", item.certain) for item in found[1:]]
        return [found[0], *others]

    def _text_input(self, node: Node, name: str, side: str, depth: int) -> Found | None:
        if (source := node.links.get(name)) is not None:
            return self._text(source, node.slot(name), side, depth + 1)
        text = node.inputs[name]
        return self._own(node, name, text) if text.__class__ is str else None

    def _own(self, node: Node, name: str, text: str) -> Found:
        """The text of a widget."""
        return Found(text, node.id, certain=name not in node.guessed)

    def _text(self, source: str, slot: int, side: str, depth: int) -> Found | None:
        """The text behind a text link."""
        key = (source, slot, side)
        if key not in self._texts:
            self._texts[key] = None  # where links go in a circle
            node = self._enter(source, set(), depth)
            if node is not None:
                self._texts[key] = self._text_of(node, slot, side, depth)
        return self._texts[key]

    def _text_of(self, node: Node, slot: int, side: str, depth: int) -> Found | None:
        """The text that a node gives.

        The result of a string node is computed. Another node with several texts joins them. If the
        input names do not show text (a switch, a viewer), the first one counts, unless the node
        has a delimiter.
        """
        if node.class_type in COMPUTED:
            return self._computed(node, side, depth)
        side = self._side(node, slot, side)
        mine = SIDES[side]
        other = _SIDED ^ mine
        named = {n: traits for n in node.inputs if not (traits := self._names[n]) & other}
        if len(named) < len(node.inputs):
            named = {n: traits for n, traits in named.items() if traits & mine} or named
        texts = [n for n, traits in named.items() if traits & (TEXT | mine) and not traits & OPTION]
        populated = [n for n in texts if "populated" in n and (node.text(n) or "").strip()]
        names, known = self._selected(node, ordered(not_shown(node, texts)))
        names = populated or switched_on(node, of_slot(node, slot, names))
        parts = [self._text_input(node, name, side, depth) for name in names]
        found = [part for part in parts if part is not None]
        certain = known and len(found) == len(parts) and all(part.certain for part in found)
        filled = [part for part in found if part.text.strip()]
        delimiter = delimiter_of(node)
        writes = _WRITERS.search(node.class_type) is not None
        if not filled and not writes:
            for part in self._unnamed(node, side, named, names, depth):
                filled.append(part)
                certain = certain and part.certain
                if delimiter is None:
                    break
        certain = certain and not writes
        if not filled:
            return Found(found[0].text, found[0].node, certain=certain) if found else None
        if len(filled) > 1 and not known:
            filled = filled[:1]
        if len(filled) == 1 and "find" not in node.inputs:
            return Found(filled[0].text, filled[0].node, filled[0].role, certain)
        joined = (", " if delimiter is None else delimiter).join(part.text for part in filled)
        text = with_replacement(node, joined[:MAX_TEXT])
        return Found(text or joined[:MAX_TEXT], node.id, certain=certain and text is not None)

    def _unnamed(
        self, node: Node, side: str, named: dict[str, int], tried: list[str], depth: int
    ) -> Iterator[Found]:
        """The texts of inputs whose names do not show text: those of switches and viewers."""
        mine = SIDES[side]
        others = [n for n, t in named.items() if not t & (_NO_TEXT | TEXT | mine)]
        # The text that a viewer shows, if its own input cannot be followed.
        others += [n for n in named if n not in tried and named[n] & TEXT and not named[n] & OPTION]
        names, known = self._selected(node, ordered(others))
        switches = any(traits & SELECTOR for traits in named.values())
        for name in names:
            if name not in node.links and not (switches or may_be_prompt(node, name)):
                continue
            found = self._text_input(node, name, side, depth)
            if found is not None and found.text.strip():
                shown = name in node.links and known
                yield Found(found.text, found.node, found.role, found.certain and shown)

    def _computed(self, node: Node, side: str, depth: int) -> Found | None:
        """The result of a string node; the text that it changes, if it cannot be computed."""
        compute, main = COMPUTED[node.class_type]
        arguments: dict[str, Any] = {}
        certain = options_known = True
        texts: list[Found] = []
        for name in node.inputs:
            if name not in node.links:
                arguments[name] = node.inputs[name]
                certain = certain and name not in node.guessed
                if name in main and node.text(name) is not None:
                    texts.append(Found(node.inputs[name], node.id))
                continue
            found = self._text_input(node, name, side, depth)
            if found is None:
                value = plain_value(self._graph, node, name)
                source = self._graph.get(node.links[name])
                certain = certain and source is not None and source.class_type.startswith("Primi")
                if isinstance(value, (int, float)):
                    arguments[name] = value
                elif name not in main:
                    options_known = False
                continue
            arguments[name] = found.text
            certain = certain and found.certain
            if name in main:
                texts.append(found)
            elif not found.certain:
                options_known = False
        text = compute(arguments) if options_known else None
        if text is not None:
            return Found(text[:MAX_TEXT], node.id, certain=certain)
        return Found(texts[0].text, texts[0].node, certain=False) if texts else None

    def _selected(self, node: Node, names: list[str]) -> tuple[list[str], bool]:
        """The selected input of a switch, all inputs of other nodes; and whether this is known."""
        if len(names) < 2:
            return names, True
        known = True
        for name in node.inputs:
            if not self._names[name] & SELECTOR:
                continue
            value = plain_value(self._graph, node, name)
            known = known and value is not None
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
                return chosen, True
        return names, known

    def _enter(self, source: str, seen: set[str], depth: int) -> Node | None:
        self._steps += 1
        node = self._graph.get(source)
        if node is None or source in seen or depth > _MAX_DEPTH or self._steps > _MAX_STEPS:
            return None
        self._steps += len(node.inputs)
        seen.add(source)
        return node

"""Choose the inputs of a node that count as its text, and their order."""

from __future__ import annotations

import re

from unprompt.reading.comfyui.graph import Node
from unprompt.reading.comfyui.string_nodes import replace
from unprompt.reading.comfyui.widgets import is_option, is_prose, is_text_node

_OFF = frozenset(("off", "false", "no", "disable", "disabled"))
_TEXT_BY_SLOT = {"Text String": 4, "ttN text3BOX_3WAYconcat": 3}
"""Classes whose first outputs each give one of their texts."""
_DELIMITERS = ("delimiter", "separator", "delimeter", "seperator", "delim")
_TOGGLE = re.compile(
    r"(?:use|enabled?|with|on|switch|toggle|activate)_?(.+)|(.+?)_?(?:enabled?|on|switch|toggle)"
)


def may_be_prompt(node: Node, name: str) -> bool:
    """Whether a widget with a meaningless name may hold the text of its node."""
    text = node.text(name)
    if text is None or name.startswith("widget_") or is_option(text):
        return False
    alone = not node.links and sum(v.__class__ is str for v in node.inputs.values()) == 1
    return (
        is_prose(text) or alone or delimiter_of(node) is not None or is_text_node(node.class_type)
    )


def switched_on(node: Node, names: list[str]) -> list[str]:
    """Names without the inputs that a switch of the node turns off, such as ``with_SDXL``."""
    off: set[str] = set()
    for toggle, value in node.inputs.items():
        if value is not False and not (value.__class__ is str and value.lower() in _OFF):
            continue
        lowered = toggle.lower()
        if lowered == "with_sdxl":
            off.update(("text_g", "text_l"))
        elif match := _TOGGLE.fullmatch(lowered):
            core = match[1] or match[2]
            off.update((core, f"{core}_text", f"{core}_prompt", f"text_{core}", f"prompt_{core}"))
            if core.isdigit():
                off.update((f"text{core}", f"prompt{core}", f"string{core}", f"string_{core}"))
    return [name for name in names if name.lower() not in off] if off else names


def of_slot(node: Node, slot: int, names: list[str]) -> list[str]:
    """The one text of an output, if the node has an output for each of its texts."""
    if 0 <= slot < len(node.outputs) and node.outputs[slot] in names:
        return [node.outputs[slot]]
    if node.class_type in _TEXT_BY_SLOT and 0 <= slot < min(
        len(names), _TEXT_BY_SLOT[node.class_type]
    ):
        return [names[slot]]
    return names


def ordered(names: list[str]) -> list[str]:
    """``text_a, text_b`` or ``string1, string2`` sorted; other names unchanged."""
    if len(names) < 2:
        return names
    numbered = [re.fullmatch(r"(.*?)_?(\d+|[a-z])", name) for name in names]
    stems = {match[1] for match in numbered if match}
    if all(numbered) and len(stems) == 1:
        return sorted(names, key=lambda name: (len(name), name))
    return names


def not_shown(node: Node, names: list[str]) -> list[str]:
    """Names without the output of a viewer: ``text_0`` beside a linked ``text``."""
    return [
        name
        for name in names
        if name in node.links or name.rstrip("0123456789").removesuffix("_") not in node.links
    ]


def with_replacement(node: Node, text: str) -> str | None:
    """``text`` after the node's ``find`` and ``replace``, if it has them; None if too long."""
    find, replacement = node.text("find"), node.text("replace")
    return text if not find or replacement is None else replace(text, find, replacement)


def delimiter_of(node: Node) -> str | None:
    """The text that a node puts between its texts; None if it has none."""
    if (lines := node.text("linebreak_addition")) is not None:
        return "\n" if lines == "true" else ""
    for name in _DELIMITERS:
        if (value := node.text(name)) is not None:
            return value.replace("\\n", "\n")
    return None

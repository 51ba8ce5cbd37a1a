"""Text nodes whose result can be computed: ComfyUI's string nodes, and those of popular packs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from unprompt.reading.image_texts import parse_json

Arguments = Mapping[str, Any]
Compute = Callable[[Arguments], str | None]

MAX_TEXT = 4 << 20
_MAX_COST = 20_000_000
_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{(\w{1,60})\}")


def _text(arguments: Arguments, name: str, default: str = "") -> str:
    value = arguments.get(name, default)
    return value if isinstance(value, str) else str(value)


def _number(arguments: Arguments, name: str, default: int = 0) -> int:
    value = arguments.get(name, default)
    return value if isinstance(value, int) else default


def _concatenate(arguments: Arguments) -> str:
    parts = _text(arguments, "string_a"), _text(arguments, "string_b")
    return _text(arguments, "delimiter").join(parts)


def _substring(arguments: Arguments) -> str:
    return _text(arguments, "string")[_number(arguments, "start") : _number(arguments, "end")]


def _case(arguments: Arguments) -> str:
    text = _text(arguments, "string")
    cases = {
        "UPPERCASE": text.upper,
        "lowercase": text.lower,
        "Capitalize": text.capitalize,
        "Title Case": text.title,
    }
    convert = cases.get(_text(arguments, "mode"))
    return convert() if convert else text


def _trim(arguments: Arguments) -> str:
    text, mode = _text(arguments, "string"), _text(arguments, "mode", "Both")
    return {"Left": text.lstrip, "Right": text.rstrip}.get(mode, text.strip)()


def replace(text: str, find: str, replacement: str) -> str | None:
    """``text`` with every ``find`` replaced; None if the result would be too long."""
    if len(text) + text.count(find) * len(replacement) > MAX_TEXT:
        return None
    return text.replace(find, replacement)


def _replace(arguments: Arguments) -> str | None:
    main = "string" if "string" in arguments else "text"
    return replace(*(_text(arguments, name) for name in (main, "find", "replace")))


def _format(arguments: Arguments) -> str:
    values = {
        name.rpartition(".")[2]: str(value)
        for name, value in arguments.items()
        if name != "f_string" and isinstance(value, (str, int, float))
    }

    def filled(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0][0]
        return values.get(match[1], match[0])

    return _PLACEHOLDER.sub(filled, _text(arguments, "f_string"))


def _json_value(arguments: Arguments) -> str | None:
    value = parse_json(_text(arguments, "json_string"))
    found = value.get(_text(arguments, "key")) if isinstance(value, dict) else None
    return found if isinstance(found, str) else "" if found is None else str(found)


def _pattern(arguments: Arguments, text: str) -> re.Pattern[str] | None:
    """The compiled pattern, or None if matching could take long: patterns come from files."""
    pattern = _text(arguments, "regex_pattern")
    plain = re.sub(r"\\.|\[\^?\]?[^\]]*\]", "x", pattern)
    repeats = len(re.findall(r"[*+{]", plain))
    if len(pattern) > 500 or re.search(r"\)[*+?{]|\(\?P=|\(\?\(", plain):
        return None
    if re.search(r"\\[1-9]", pattern) or (len(text) + 1) ** (repeats + 1) > _MAX_COST:
        return None
    flags = 0
    for name, flag, default in (
        ("case_insensitive", re.IGNORECASE, True),
        ("multiline", re.MULTILINE, False),
        ("dotall", re.DOTALL, False),
    ):
        flags |= flag if arguments.get(name, default) is True else 0
    try:
        return re.compile(pattern, flags)
    except (re.error, RecursionError, OverflowError):
        return None


def _regex_replace(arguments: Arguments) -> str | None:
    text, replacement = _text(arguments, "string"), _text(arguments, "replace")
    pattern = _pattern(arguments, text)
    if pattern is None or len(text) * (len(replacement) + 1) > MAX_TEXT:
        return None
    try:
        return pattern.sub(replacement, text, count=max(0, _number(arguments, "count")))
    except (re.error, IndexError):
        return None


def _regex_extract(arguments: Arguments) -> str | None:
    text, mode = _text(arguments, "string"), _text(arguments, "mode", "First Match")
    pattern = _pattern(arguments, text)
    if pattern is None:
        return None
    group = _number(arguments, "group_index", 1) if mode.endswith(("Group", "Groups")) else 0
    if not 0 <= group <= pattern.groups:
        return ""
    found = [match[group] or "" for match in pattern.finditer(text)]
    return "\n".join(found) if mode.startswith("All") else (found or [""])[0]


def _function(arguments: Arguments) -> str | None:
    """The node StringFunction of ComfyUI-Custom-Scripts."""
    texts = [_text(arguments, f"text_{letter}") for letter in "abc"]
    if _text(arguments, "action") == "replace":
        return replace(*texts)
    if arguments.get("tidy_tags") in ("yes", True):
        return ", ".join(text.strip(" ,") for text in texts if text.strip(" ,"))
    return "".join(texts)


def _numbered_replace(arguments: Arguments) -> str | None:
    text: str | None = _text(arguments, "prompt") or _text(arguments, "text")
    for number in range(1, 4):
        find = _text(arguments, f"find{number}")
        if find and text is not None:
            text = replace(text, find, _text(arguments, f"replace{number}"))
    return text


def _line(arguments: Arguments) -> str:
    """The node StringSelector of the Impact Pack."""
    texts = _text(arguments, "strings")
    lines = texts.split("\n")
    if arguments.get("multiline") is True:
        return texts
    return lines[_number(arguments, "select") % len(lines)]


COMPUTED: dict[str, tuple[Compute, tuple[str, ...]]] = {
    "StringConcatenate": (_concatenate, ("string_a", "string_b")),
    "StringSubstring": (_substring, ("string",)),
    "CaseConverter": (_case, ("string",)),
    "StringTrim": (_trim, ("string",)),
    "StringReplace": (_replace, ("string",)),
    "Text Find and Replace": (_replace, ("text",)),
    "Text Find and Replace Input": (_replace, ("text",)),
    "StringFormat": (_format, ("f_string",)),
    "JsonExtractString": (_json_value, ("json_string",)),
    "RegexReplace": (_regex_replace, ("string",)),
    "RegexExtract": (_regex_extract, ("string",)),
    "StringFunction|pysssss": (_function, ("text_a", "text_b", "text_c")),
    "ImpactStringSelector": (_line, ("strings",)),
    "easy promptReplace": (_numbered_replace, ("prompt",)),
    "CR Text Replace": (_numbered_replace, ("text",)),
}
"""For each class the function from its inputs to its text, and the inputs that hold text."""

"""Find names for the widgets of a workflow, which often lists only their values.

The names come from the sockets of the node, from a table of known nodes, or from the form of the
value. A value in the form of an option (a number, a file, a colour, a size, the name of a model)
is never taken for a prompt.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

from unprompt.reading.comfyui.input_traits import NEGATIVE, OPTION, TEXT, traits_of
from unprompt.reading.comfyui.known_widgets import KNOWN

Name = TypeVar("Name")

AFTER_SEED = frozenset(("fixed", "increment", "decrement", "randomize", "increment-wrap"))
"""Values of ``control_after_generate``, which follows a seed and has no socket."""

_OPTION_WORDS = AFTER_SEED | {
    *("true", "false", "yes", "no", "on", "off", "enable", "enabled", "disable", "disabled"),
    *("none", "default", "auto", "choose", "populate", "reproduce", "image", "text", "string"),
    *("match", "superior", "alignment", "low", "medium", "high", "standard", "hd", "white"),
    *("black", "center", "left", "right", "top", "bottom", "both", "euler", "karras", "normal"),
    *("simple", "nearest", "bilinear", "lanczos", "area", "bicubic", "comfy", "a1111", "fixed"),
    *("nearest-exact", "set", "input", "output", "append", "replace", "vivid", "natural"),
    *("first match", "all matches", "first group", "all groups", "uppercase", "lowercase"),
    *("capitalize", "title case", "match input", "custom", "random", "all", "any", "select"),
}
_OPTION_FORMS = re.compile(
    r"#[0-9a-fA-F]{3,8}"  # a colour
    r"|(?=.*\d|\s*$)[-+.\d\s,:x×*/%()\[\]]*"  # numbers, sizes, ratios
    r"|(?:\([^()]*\) ?)?\d+ ?[x×:*] ?\d+.{0,40}"  # 1024x1024 (1:1), 16:9 (Wide)
    r"|[^\s,]+\.[A-Za-z]\w{1,11}"  # a file
    r"|[\w.+\-/\\:@\[\]]*\d[\w.+\-/\\:@\[\]]*"  # one word with a digit: seedream-4-0, 1K
    r"|[Nn]one \([^()]*\)"
    r"|(?:rgba?|hsl)\([^()]*\)"
    r"|https?://\S*|[A-Za-z]:\\.*|/\S*"
    r"|[A-Z][\w.]*(?: [\w.\[\]]+){0,2} \d[\d.]*(?: [\w.\[\]()]+){0,2}"  # Gemini 3.8 Flash
    r"|.{0,30}\(\d*[kKpP\d:x, ]+\).{0,12}",  # FullHD (1080p)
    re.DOTALL,
)
_SYSTEM = re.compile(
    r"\W*(?:you are (?:an?|the) |you're an? |as an? (?:expert|ai)|system prompt"
    r"|your (?:task|role|job) is|act as |<s>\[system|\*\*role|# .{0,40}system prompt)",
    re.IGNORECASE,
)
_UNWANTED = re.compile(
    r"\W*(?:(?:very )?(?:blurry|low[- ]?(?:quality|res\w*)|worst|bad|ugly|deformed|distorted|"
    r"watermark|disfigured|nsfw|lowres|poor quality|jpeg artifacts|overexposed|oversaturated)\b"
    r"|色调艳丽)",
    re.IGNORECASE,
)
_LETTER_RUNS = re.compile(r"[^\W\d_]+")
_TEXT_NODES = re.compile(
    r"(?<!con)(?<!kon)text|prompt|string|caption|wildcard|clip.*encode", re.IGNORECASE
)
_JOINERS = re.compile(r"concat|join|combine|append|merge", re.IGNORECASE)
_MODEL_FILES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".sft")


def named_widgets(raw: Mapping[str, Any]) -> tuple[dict[str, Any], frozenset[str]]:
    """The widgets of a node by name, and the names that are guesses.

    Texts without a known name are called ``prompt_N``, ``negative_prompt_N`` (if they start with
    words such as "blurry"), ``system_N`` (instructions to a language model), or ``shown_N`` if the
    node has another text input. A text of only punctuation is called ``delimiter``. Other values
    are called ``widget_N``.
    """
    values = raw.get("widgets_values")
    if isinstance(values, dict):
        return {str(key): value for key, value in values.items()}, frozenset()
    if not isinstance(values, list) or not values:
        return {}, frozenset()
    class_type = str(raw.get("type"))
    sockets = [*_sockets_of_widgets(raw)]
    names: list[str | None]
    known = KNOWN.get(f"{class_type}/{len(values)}") or KNOWN.get(class_type)
    if known and _may_be_of(known, values):
        names = [*known[: len(values)]]
    else:
        names = align([socket.name for socket in sockets], values) or _by_types(sockets, values)
        if not any(names):
            names = [*_loader_names(class_type, values)]
    names += [None] * (len(values) - len(names))
    _name_seed(names, values)
    guessed = _guess(raw, class_type, names, values)
    return {
        name or f"widget_{index}": value
        for index, (name, value) in enumerate(zip(names, values, strict=True))
    }, guessed


def _may_be_of(known: Sequence[str], values: Sequence[Any]) -> bool:
    """Whether the values can be those of the known widgets; other versions may have others."""
    pairs = zip(known, values, strict=False)
    return all(isinstance(v, str) or v is None for n, v in pairs if n in ("prompt", "text"))


def _name_seed(names: list[str | None], values: list[Any]) -> None:
    """Name a number ``seed`` if what to do with it after each image follows."""
    for index, (value, following) in enumerate(pairwise(values)):
        is_seed = isinstance(value, int) and isinstance(following, str) and following in AFTER_SEED
        if is_seed and names[index] is None and "seed" not in names:
            names[index] = "seed"


def is_text_node(class_type: str) -> bool:
    """Whether the name of a class says that its nodes hold text."""
    return _TEXT_NODES.search(class_type) is not None


def is_option(value: str) -> bool:
    """Whether a text has the form of an option's value: no prompt looks like this."""
    value = value.strip()
    return value.lower() in _OPTION_WORDS or (
        len(value) < 200 and _OPTION_FORMS.fullmatch(value) is not None
    )


def _guess(
    raw: Mapping[str, Any], class_type: str, names: list[str | None], values: list[Any]
) -> frozenset[str]:
    """Fill in names for texts without a name; returns the names that are guesses."""
    if all(names):
        return frozenset()
    has_text = any(
        name and (traits := traits_of(name)) & TEXT and not traits & (OPTION | NEGATIVE)
        for name in (*names, *_text_sockets(raw))
    )
    linked = any(traits_of(name) & TEXT for name in _text_sockets(raw))
    joins = _JOINERS.search(class_type) is not None
    found: list[str] = []
    for index, value in enumerate(values):
        if names[index] or not isinstance(value, str):
            continue
        if 0 < len(value) < 6 and not any(map(str.isalnum, value)):
            names[index] = "delimiter"
        elif is_prose(value):
            if _SYSTEM.match(value) and not joins:
                names[index] = f"system_{index}"
            elif _UNWANTED.match(value) and not linked:
                names[index] = f"negative_prompt_{index}"
            elif has_text and not joins:
                names[index] = f"shown_{index}"
            else:
                names[index] = f"prompt_{index}"
                found.append(f"prompt_{index}")
    if len(found) > 1 and not joins and not is_text_node(class_type):
        # Partner nodes list their prompt before other texts.
        for name in found[1:]:
            names[names.index(name)] = f"shown_{name.removeprefix('prompt_')}"
    if found or has_text or linked:
        return frozenset(found if len(found) > 1 or has_text else ())
    return _guess_short(class_type, names, values)


def _guess_short(class_type: str, names: list[str | None], values: list[Any]) -> frozenset[str]:
    """Fill in a name for a text of a few words, if the node is likely to hold a prompt."""
    texts = [
        index
        for index, value in enumerate(values)
        if not names[index]
        and isinstance(value, str)
        and _LETTER_RUNS.search(value)
        and not is_option(value)
    ]
    alone = len(texts) == 1 and is_text_node(class_type)
    seeded = not AFTER_SEED.isdisjoint(v for v in values if isinstance(v, str))
    if texts and (alone or (seeded and texts[0] < 2 and " " in values[texts[0]].strip())):
        names[texts[0]] = f"prompt_{texts[0]}"
        return frozenset() if alone and len(values) == 1 else frozenset((f"prompt_{texts[0]}",))
    return frozenset()


def is_prose(value: object) -> bool:
    """Whether a text has enough words to be no option."""
    if not isinstance(value, str) or is_option(value):
        return False
    start = value[:2000]
    runs = _LETTER_RUNS.findall(start)
    letters = sum(map(len, runs))
    if any(ord(run[0]) > 0x2E7F for run in runs):  # Chinese, Japanese, Korean: no spaces
        return letters >= 4
    words = [word for word in start.split() if _LETTER_RUNS.search(word)]
    if letters * 2 < len(start.strip()):
        return False
    return len(words) >= 5 or (len(words) >= 3 and any(mark in value for mark in ",.\n"))


class _Socket(NamedTuple):
    name: str
    type: str
    linked: bool


def _sockets_of_widgets(raw: Mapping[str, Any]) -> Iterator[_Socket]:
    """Each widget that has a socket, in the order of the widgets."""
    inputs = raw.get("inputs")
    for socket in inputs if isinstance(inputs, list) else ():
        widget = socket.get("widget") if isinstance(socket, dict) else None
        if isinstance(widget, dict) and isinstance(name := widget.get("name"), str):
            yield _Socket(name, str(socket.get("type")), socket.get("link") is not None)


def _text_sockets(raw: Mapping[str, Any]) -> Iterator[str]:
    """Names of the linked sockets that take text."""
    inputs = raw.get("inputs")
    for socket in inputs if isinstance(inputs, list) else ():
        if (
            isinstance(socket, dict)
            and socket.get("link") is not None
            and isinstance(name := socket.get("name"), str)
            and socket.get("type") in ("STRING", "*")
        ):
            yield name


def align(names: Sequence[Name], values: Sequence[Any]) -> list[Name | None]:
    """The names, if there is one for each value but those that follow a seed (None); else []."""
    aligned: list[Name | None] = []
    for name in names:
        aligned.append(name)
        at = len(aligned)
        following = values[at] if at < len(values) else None
        if isinstance(following, str) and following in AFTER_SEED and len(names) < len(values):
            aligned.append(None)
    return aligned if len(aligned) == len(values) else []


def _by_types(sockets: list[_Socket], values: list[Any]) -> list[str | None]:
    """Names for some of the values: each socket gets the next value of its type.

    A prompt goes to a socket for text only, and an option to no such socket unless it is linked.
    """
    names: list[str | None] = [None] * len(values)
    at = 0
    for socket in sockets:
        is_text = traits_of(socket.name) & TEXT
        fitting = [
            index
            for index in range(at, len(values))
            if _fits(value := values[index], socket.type)
            and (is_text or not is_prose(value))
            and not (is_text and not socket.linked and value and is_option(str(value)))
        ]
        if socket.linked:  # the value typed before the link is mostly empty
            fitting.sort(key=lambda index: values[index] != "")
        if fitting:
            names[fitting[0]] = socket.name
            at = fitting[0] + 1
    return names


def _fits(value: Any, socket_type: str) -> bool:
    if socket_type == "STRING":
        return isinstance(value, str) and value not in AFTER_SEED
    if socket_type == "BOOLEAN":
        return isinstance(value, bool)
    if socket_type in ("INT", "FLOAT"):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, (str, int, float, bool))


def _loader_names(class_type: str, values: list[Any]) -> list[str]:
    """Names for the widgets of loaders and of nodes that start with a size."""
    lowered, first = class_type.lower(), values[0]
    if isinstance(first, str) and first.lower().endswith(_MODEL_FILES):
        if "lora" in lowered:
            return ["lora_name", "strength_model", "strength_clip"][: len(values)]
        if any(word in lowered for word in ("checkpoint", "unet", "diffusion", "model")):
            return ["ckpt_name"]
        return ["file_name"]
    sides = [value for value in values[:2] if isinstance(value, int) and value >= 64]
    if len(sides) == 2 or ("latent" in lowered and isinstance(first, int)):
        return ["width", "height"][: len(values)]
    return []

"""Scenes that the sketch backend can draw, and the prompts that describe them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from unprompt.collecting.prompts.grammar import Grammar, parse

COLOURS = {
    "red": "#d8232a",
    "orange": "#f58220",
    "yellow": "#f9d616",
    "green": "#2e9e3f",
    "turquoise": "#21c0b5",
    "blue": "#2459c9",
    "purple": "#7d3fae",
    "pink": "#f27fb2",
    "brown": "#7a4a21",
    "black": "#1c1c1c",
    "white": "#fbfbfb",
    "grey": "#8a8d91",
    "golden": "#d4a017",
}
TEXTURES = ("striped", "dotted", "checkered")
SIZES = {"tiny": 0.5, "huge": 1.3}
COUNTS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
RELATIONS = ("to the left of", "to the right of", "above", "below", "beside")
STYLES = (
    "pencil sketch",
    "watercolour painting",
    "pixel art picture",
    "blueprint",
    "neon sign",
    "woodcut",
    "mosaic",
    "crayon drawing",
    "sepia photograph",
)
MAX_COUNT = max(COUNTS.values())

_SPELLINGS = {"gray": "grey", "gold": "golden", "violet": "purple", "cyan": "turquoise"}


@dataclass(frozen=True)
class Stroke:
    """One stroke on a square of 100 x 100: its shape, its words and its points."""

    shape: str
    words: tuple[str, ...]
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Group:
    """Equal things in a scene; a property is None if the prompt does not state it."""

    noun: str
    count: int = 1
    colour: str | None = None
    texture: str | None = None
    size: str | None = None


@dataclass(frozen=True)
class Scene:
    """Content of a sketch: at most two groups, their relation, the setting and the style."""

    groups: tuple[Group, ...]
    relation: str | None = None
    setting: str | None = None
    style: str | None = None


@cache
def strokes(name: str) -> dict[str, tuple[Stroke, ...]]:
    """Drawings of ``scenes/<name>.txt`` by their headings, in the order of the file."""
    drawings = _scene_file(name).items()
    return {heading: tuple(_stroke(line) for line in lines) for heading, lines in drawings}


@cache
def nouns() -> dict[str, str]:
    """Plural of each noun that can be drawn, by its singular."""
    return dict(heading.split(" / ") for heading in strokes("things"))


@cache
def settings() -> dict[str, str]:
    """Heading of the drawing for each phrase of a setting."""
    return {phrase: heading for heading in strokes("settings") for phrase in heading.split(" / ")}


@cache
def sketch_grammar() -> Grammar:
    """The grammar of prompts that can be drawn; its start symbol is ``sketch``."""
    lists = {
        "thing": list(nouns()),
        "things": list(nouns().values()),
        "setting": list(settings()),
        "style": list(STYLES),
        "colour": list(COLOURS),
        "texture": list(TEXTURES),
        "size": list(SIZES),
        "count": list(COUNTS),
        "relation": list(RELATIONS),
    }
    return Grammar(_scene_file("sketch") | lists)


def _scene_file(name: str) -> dict[str, list[str]]:
    folder = files("unprompt.collecting.sketches").joinpath("scenes")
    return parse(folder.joinpath(f"{name}.txt").read_text(encoding="utf-8"))


def read_scene(prompt: str) -> Scene:
    """The things, setting and style of a prompt that can be drawn.

    Unknown words are ignored. If a prompt has several settings or styles, the longest one counts. A
    prompt without a known noun has no groups.
    """
    text = " ".join(prompt.lower().split())
    setting, text = _cut_phrase(text, tuple(settings()))
    style, text = _cut_phrase(text, STYLES)
    matches = list(_noun_pattern().finditer(text))[:2]
    groups = tuple(_group(match) for match in matches)
    relation = None
    if len(matches) == 2:
        between = text[matches[0].end() : matches[1].start()]
        relation = next((name for name in RELATIONS if name in between), None)
    return Scene(groups, relation, settings()[setting] if setting else None, style)


def _stroke(line: str) -> Stroke:
    shape, *rest = line.split()
    points = tuple(
        (float(x), float(y)) for x, _, y in (word.partition(",") for word in rest if "," in word)
    )
    return Stroke(shape, tuple(word for word in rest if "," not in word), points)


def _cut_phrase(text: str, phrases: tuple[str, ...]) -> tuple[str | None, str]:
    """The longest phrase found in ``text``, and the text without it."""
    for phrase in sorted(phrases, key=len, reverse=True):
        if phrase in text:
            return phrase, text.replace(phrase, " ; ", 1)
    return None, text


@cache
def _noun_pattern() -> re.Pattern[str]:
    def choice(words: list[str]) -> str:
        return "|".join(map(re.escape, sorted(words, key=len, reverse=True)))

    known = [*COLOURS, *_SPELLINGS, *TEXTURES, *SIZES]
    counts = choice([*COUNTS, *map(str, COUNTS.values())])
    both = choice([*nouns(), *nouns().values()])
    return re.compile(
        rf"\b(?:(?P<count>{counts}) )?(?P<looks>(?:(?:{choice(known)}) )*)(?P<noun>{both})\b"
    )


def _group(match: re.Match[str]) -> Group:
    looks = [_SPELLINGS.get(word, word) for word in match["looks"].split()]
    singular_of = {plural: singular for singular, plural in nouns().items()}
    found = match["noun"]
    stated = match["count"]
    if stated:
        count = COUNTS.get(stated) or int(stated)
    else:
        count = 2 if found in singular_of and found not in nouns() else 1
    return Group(
        noun=found if found in nouns() else singular_of[found],
        count=count,
        colour=next((word for word in looks if word in COLOURS), None),
        texture=next((word for word in looks if word in TEXTURES), None),
        size=next((word for word in looks if word in SIZES), None),
    )

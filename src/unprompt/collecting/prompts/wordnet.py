"""Nouns of WordNet for the grammar of prompts, if its data is installed.

WordNet (Fellbaum, 1998) is read from NLTK's data folders or from Debian's package wordnet-base; it
is not part of this package. Its format is described in wndb(5WN).
"""

from __future__ import annotations

import os
import re
import sys
import zipfile
from collections import defaultdict
from functools import cache
from pathlib import Path

from unprompt.collecting.prompts.grammar import Grammar, load_rules
from unprompt.errors import UnpromptError

LEXICOGRAPHER_FILES = {"05": "animal", "06": "object", "13": "food", "20": "plant"}
"""Grammar symbol for each file number: noun.animal, noun.artifact, noun.food and noun.plant.

Words for people are left out, because many are insults."""

_PLAIN = re.compile(r"[a-z]+(?:[ '-][a-z]+){0,2}")
_NO_ARTICLE = {"food"}


@cache
def wordnet_grammar() -> Grammar:
    """The grammar with WordNet: half of the animals, objects, foods and plants come from there.

    Raises:
        UnpromptError: WordNet is not installed.
    """
    rules = dict(load_rules())
    for symbol, words in nouns().items():
        rules[f"our {symbol}"] = rules[symbol]
        rules[f"wordnet {symbol}"] = words
        rules[symbol] = [f"{{our {symbol}}}", f"{{wordnet {symbol}}}"]
    return Grammar(rules)


def nouns() -> dict[str, list[str]]:
    """Sorted nouns by grammar symbol; the commonest sense of a noun decides its symbol.

    Raises:
        UnpromptError: WordNet is not installed.
    """
    synsets: dict[str, tuple[str, frozenset[str]]] = {}
    for line in _lines("data.noun"):
        offset, file, _, count, *rest = line.split(" ")
        if file in LEXICOGRAPHER_FILES:
            # Words and their numbers alternate; names have capitals.
            words = rest[: 2 * int(count, 16) : 2]
            synsets[offset] = (LEXICOGRAPHER_FILES[file], frozenset(words))
    found: dict[str, list[str]] = defaultdict(list)
    for line in _lines("index.noun"):
        lemma, _, senses, *rest = line.split()
        # The senses come last, the commonest first.
        symbol, lemmas = synsets.get(rest[-int(senses)], ("", frozenset()))
        word = lemma.replace("_", " ")
        if lemma in lemmas and _PLAIN.fullmatch(word):
            found[symbol].append(f"~{word}" if symbol in _NO_ARTICLE else word)
    return {symbol: sorted(words) for symbol, words in sorted(found.items())}


def _lines(name: str) -> list[str]:
    """Lines of a file of WordNet, without the licence at the top."""
    places = _places()
    for folder in places:
        plain, packed = folder / "corpora" / "wordnet" / name, folder / "corpora" / "wordnet.zip"
        if plain.exists() or (plain := folder / name).exists():
            text = plain.read_text(encoding="utf-8")
        elif packed.exists():
            with zipfile.ZipFile(packed) as archive:
                text = archive.read(f"wordnet/{name}").decode("utf-8")
        else:
            continue
        return [line for line in text.splitlines() if line and not line.startswith(" ")]
    raise UnpromptError(
        f"WordNet's {name} is in none of {', '.join(map(str, places))}; run: python -m "
        "nltk.downloader wordnet, or install Debian's wordnet-base, or set NLTK_DATA to its folder"
    )


def _places() -> list[Path]:
    """NLTK's data folders (nltk.org/data), and Debian's folder of WordNet."""
    stated = [Path(place) for place in os.environ.get("NLTK_DATA", "").split(os.pathsep) if place]
    prefix = Path(sys.prefix)
    inside = [prefix / "nltk_data", prefix / "share" / "nltk_data", prefix / "lib" / "nltk_data"]
    system = [f"/usr/{part}/nltk_data" for part in ("share", "local/share", "lib", "local/lib")]
    return [
        *stated,
        Path.home() / "nltk_data",
        *inside,
        *map(Path, system),
        Path("/usr/share/wordnet"),
    ]

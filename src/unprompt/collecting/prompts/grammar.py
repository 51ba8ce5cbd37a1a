"""A context-free grammar in readable text files, and random sentences from it."""

from __future__ import annotations

import random
import re
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import accumulate

_TOKEN = re.compile(r"\[([^\[\]]*)\]|\{([^{}]+)\}")
_WEIGHT = re.compile(r"(\d+)\*\s+")
# `~` removes the article of its noun phrase; a comma or another article ends the phrase.
_NO_ARTICLE = re.compile(r"\b[Aa]n? ((?:(?!\ban? )[^,~])*)~")
# 'u' as in 'unicorn' and 'o' as in 'one-eyed' sound like consonants; the h of 'hour' is silent.
_AN = re.compile(r"\b([Aa]) (?=[aei]|o(?!ne\b)|u(?!ni(?!n)|til|top|ku|fo)|hour)")


@dataclass(frozen=True)
class Form:
    """One form of a symbol: literal text, references to symbols, and optional parts."""

    parts: tuple[str | Reference | Form, ...]


@dataclass(frozen=True)
class Reference:
    """A place in a form that is replaced by a form of another symbol."""

    symbol: str


@dataclass(frozen=True)
class Rule:
    """The forms of a symbol; ``bounds`` are the cumulative sums of their weights."""

    forms: tuple[Form, ...]
    bounds: tuple[int, ...]


class Grammar:
    """Rules by symbol.

    Args:
        rules: the forms of each symbol, written as in ``words/grammar.txt``.

    Raises:
        ValueError: a form refers to a symbol that has no rule.
    """

    def __init__(self, rules: Mapping[str, list[str]]):
        self.rules = {symbol: _rule(lines) for symbol, lines in rules.items()}
        for symbol, rule in self.rules.items():
            for name in {name for form in rule.forms for name in _references(form)}:
                if name not in self.rules:
                    raise ValueError(f"'{symbol}' refers to '{name}', which has no rule")

    def sample(self, symbol: str, rng: random.Random) -> str:
        """A random sentence from ``symbol``, with correct articles."""
        text = self._expand(self._choose(symbol, rng), rng)
        return fix_articles(text)

    def count(self, symbol: str) -> int:
        """Number of derivations of ``symbol``; a few of them give equal texts.

        Raises:
            RecursionError: the grammar is recursive.
        """

        @cache
        def of_symbol(name: str) -> int:
            return sum(map(of_form, self.rules[name].forms))

        def of_form(form: Form) -> int:
            number = 1
            for part in form.parts:
                if isinstance(part, Reference):
                    number *= of_symbol(part.symbol)
                elif isinstance(part, Form):
                    number *= 1 + of_form(part)
            return number

        return of_symbol(symbol)

    def _choose(self, symbol: str, rng: random.Random) -> Form:
        rule = self.rules[symbol]
        return rule.forms[bisect_right(rule.bounds, int(rng.random() * rule.bounds[-1]))]

    def _expand(self, form: Form, rng: random.Random) -> str:
        text = []
        for part in form.parts:
            if isinstance(part, str):
                text.append(part)
            elif isinstance(part, Reference):
                text.append(self._expand(self._choose(part.symbol, rng), rng))
            elif rng.random() < 0.5:
                text.append(self._expand(part, rng))
        return "".join(text)


def fix_articles(text: str) -> str:
    """Remove the articles of nouns marked ``~``, and write 'an' before vowels."""
    while "~" in text:
        text, found = _NO_ARTICLE.subn(r"\1", text)
        if not found:
            text = text.replace("~", "")
    return _AN.sub(r"\1n ", text)


@cache
def load_grammar() -> Grammar:
    """The grammar of `load_rules`.

    Raises:
        ValueError: a form refers to a symbol that has no rule, or a symbol has two.
    """
    return Grammar(load_rules())


def load_rules() -> dict[str, list[str]]:
    """The rules of ``words/grammar.txt``, and every other list of that folder as a rule.

    Raises:
        ValueError: a symbol has two rules.
    """
    folder = files("unprompt.collecting.prompts").joinpath("words")
    rules = parse(folder.joinpath("grammar.txt").read_text(encoding="utf-8"))
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        symbol = entry.name.removesuffix(".txt")
        if symbol != "grammar":
            if symbol in rules:
                raise ValueError(f"'{symbol}' has a rule in grammar.txt and a list of its own")
            rules[symbol] = entry.read_text(encoding="utf-8").splitlines()
    return rules


def parse(text: str) -> dict[str, list[str]]:
    """Rules of a grammar file: ``symbol:`` at the margin, its forms indented, ``#`` comments.

    Raises:
        ValueError: a form before the first symbol, or a symbol with two rules.
    """
    rules: dict[str, list[str]] = {}
    forms: list[str] | None = None
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        if not line.startswith(" "):
            symbol = line.rstrip().removesuffix(":")
            if symbol in rules or not line.rstrip().endswith(":"):
                raise ValueError(f"line {number}: '{line}' does not begin a new rule")
            forms = rules[symbol] = []
        elif forms is None:
            raise ValueError(f"line {number}: a form before any symbol")
        else:
            forms.append(line.strip())
    return rules


def _rule(lines: list[str]) -> Rule:
    weights, forms = [], []
    for line in lines:
        weight = _WEIGHT.match(line)
        weights.append(int(weight[1]) if weight else 1)
        forms.append(_form(line[weight.end() :] if weight else line))
    return Rule(tuple(forms), tuple(accumulate(weights)))


def _form(text: str) -> Form:
    parts: list[str | Reference | Form] = []
    position = 0
    # An optional part may contain references, so the pattern tries brackets first.
    for match in _TOKEN.finditer(text):
        if match.start() > position:
            parts.append(text[position : match.start()])
        optional, symbol = match.groups()
        parts.append(_form(optional) if symbol is None else Reference(symbol))
        position = match.end()
    if position < len(text):
        parts.append(text[position:])
    return Form(tuple(parts))


def _references(form: Form) -> list[str]:
    names = []
    for part in form.parts:
        if isinstance(part, Reference):
            names.append(part.symbol)
        elif isinstance(part, Form):
            names += _references(part)
    return names

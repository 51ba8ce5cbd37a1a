"""One word, one meaning: what the options of all verbs have in common."""

from __future__ import annotations

import inspect
import re
import shlex
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import EnumType
from importlib import import_module
from inspect import signature
from typing import Any, get_args

import pytest
import typer
from typer.models import OptionInfo
from typer.testing import CliRunner

from unprompt.cli import VERBS as PANELS
from unprompt.cli import app

DIFFERENT = {
    # One answer is what a program wants; a page and a search show several.
    "--top-k": "default",
    # What is measured is the test split; what is fitted is fitted on the validation split.
    "--split": "default",
    # 0.9 is 'the same prompt again'; 0.7 is 'near enough to leak from one split into another'.
    "--threshold": "default",
    # The pipelines that make images have other backends, and compute in other formats.
    "--backend": "choices",
    "--precision": "choices",
    # How many images fit is known of embedders, and found out for a pipeline.
    "--batch-size": "default",
    # Each verb lists the formats that it can write, and says what it writes by itself.
    "--format": "choices",
    "--output": "help",
    # img2dataset's word for JPEG is another than Pillow's, and it scales every image.
    "--image-format": "choices",
    "--image-size": "default",
    "--processes": "default",
    "--shard-size": "default",
    # A search takes one model, the others several.
    "--model": "number",
}
"""Options that differ from verb to verb, and in what; every other one is the same everywhere."""


@dataclass(frozen=True)
class Parameter:
    """An option or an argument of a verb."""

    name: str
    words: tuple[str, ...]
    help: str
    type: Any
    default: Any

    @property
    def choices(self) -> set[str]:
        enums = [one for one in (self.type, *get_args(self.type)) if isinstance(one, EnumType)]
        return {member.value for enum in enums for member in enum}


def options_of(verb: Callable[..., None]) -> Iterator[Parameter]:
    for name, parameter in signature(verb, eval_str=True).parameters.items():
        type_, info = get_args(parameter.annotation)
        if isinstance(info, OptionInfo):
            # Typer takes the first word for a default until it meets the annotation.
            words = [word for word in (info.default, *(info.param_decls or ())) if word is not ...]
            words = words or ["--" + name.replace("_", "-")]
            yield Parameter(name, tuple(words), str(info.help), type_, parameter.default)


def _verbs() -> Iterator[tuple[str, Callable[..., None]]]:
    for panel in PANELS.values():
        for name, verb in panel.items():
            if isinstance(verb, typer.Typer):
                for command in verb.registered_commands:
                    yield f"{name} {command.callback.__name__}", command.callback
            else:
                yield name, verb


ALL = dict(_verbs())


VERBS = [
    *("predict", "read", "bank build", "bank search"),
    *("harvest", "download", "compose", "generate"),
    *("filter", "encode", "dedup", "split", "convert"),
    *("train", "zero-shot head", "zero-shot knn", "zero-shot interrogator"),
    *("merge weights", "merge answers", "export"),
    *("evaluate", "calibrate", "serve"),
]


def test_the_verbs() -> None:
    assert [*ALL] == VERBS


def test_a_word_means_the_same_in_every_verb() -> None:
    meanings = defaultdict(set)
    for verb in ALL.values():
        for option in options_of(verb):
            word = max(option.words, key=len)
            meanings[word].add((option.words, option.help, str(option.type), option.default))
    several = {word: found for word, found in meanings.items() if len(found) > 1}
    assert {*several} == {*DIFFERENT}, {
        word: several.get(word) for word in {*several} ^ {*DIFFERENT}
    }


def test_a_letter_stands_for_one_word() -> None:
    letters = defaultdict(set)
    for verb in ALL.values():
        for option in options_of(verb):
            for word in option.words:
                if re.fullmatch("-[a-zA-Z]", word):
                    letters[word].add(option.name)
    assert letters == {"-o": {"output"}, "-r": {"recursive"}, "-n": {"n"}}


CHOICES = {
    ("predict", "route"): "unprompt.predicting.options:ROUTES",
    ("predict", "form"): "unprompt.predicting.output:FORMATS",
    ("read", "form"): "unprompt.reading.read_files:FORMATS",
    ("evaluate", "form"): "unprompt.evaluating.evaluation_output:FORMATS",
    ("convert", "to"): "unprompt.pairs.convert:FORMATS",
    ("convert", "source_format"): "unprompt.pairs.convert:FORMATS",
    ("compose", "style"): "unprompt.collecting.compose:STYLES",
    ("generate", "backend"): "unprompt.collecting.images.backends:BACKENDS",
    ("dedup", "keep"): "unprompt.curating.dedup.identical_prompts:KEEP_RULES",
    ("encode", "backend"): "unprompt.encoding.encoder:BACKENDS",
    ("encode", "precision"): "unprompt.encoding.encoder:PRECISIONS",
    ("bank search", "form"): "unprompt.predicting.bank_search:FORMATS",
    ("bank build", "index"): "unprompt.models.bank.faiss_index:INDEXES",
}


@pytest.mark.parametrize(("verb", "option"), CHOICES)
def test_choices_are_those_of_the_room(verb: str, option: str) -> None:
    module, _, table = CHOICES[verb, option].partition(":")
    [found] = [one for one in options_of(ALL[verb]) if one.name == option]
    assert found.choices == {*getattr(import_module(module), table)}


@pytest.mark.parametrize("verb", sorted(ALL))
def test_help_has_examples_that_parse(verb: str) -> None:
    done = CliRunner().invoke(app, [*verb.split(), "-h"])
    assert done.exit_code == 0
    assert "Examples" in done.stdout
    help_ = inspect.getdoc(ALL[verb]).replace("\\\n", " ")
    examples = re.findall(r"^  unprompt (.*)", help_, re.M)
    assert any(example.startswith(verb) for example in examples)
    for example in examples:
        words = shlex.split(example)
        name = next(name for name in (" ".join(words[:2]), words[0]) if name in ALL)
        parsed = CliRunner().invoke(parser(name), words[len(name.split()) :])
        assert parsed.exit_code == 0, parsed.output


def parser(verb: str) -> typer.Typer:
    """An app that parses what this verb takes, and does nothing."""

    def nothing(**values: object) -> None:
        pass

    nothing.__signature__ = signature(ALL[verb], eval_str=True)  # type: ignore[attr-defined]
    nothing.__annotations__ = {
        name: one.annotation for name, one in nothing.__signature__.parameters.items()
    }
    app = typer.Typer()
    app.command()(nothing)
    return app

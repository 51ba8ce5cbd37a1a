"""The phrases that an interrogator composes prompts of, by category.

The default phrases are the word lists of `unprompt.collecting.compose`. A folder of
text files can replace them: each file is a category, with a phrase a line.
"""

from __future__ import annotations

from pathlib import Path

from unprompt.collecting.prompts.grammar import fix_articles, load_rules
from unprompt.errors import UnpromptError
from unprompt.pairs.prompt_file import prompts_of

SUBJECT, FLAVOR = "subject", "flavor"
"""The first category of a prompt without a captioner, and the only one with several phrases."""

# Category: its word lists, and the form of a phrase in a prompt.
_OWN = {
    SUBJECT: (
        [
            "animal",
            "creature",
            "role",
            "building",
            "landform",
            "room",
            "vehicle",
            "object",
            "plant",
            "food",
        ],
        "a {}",
    ),
    "medium": (["medium", "photo"], "{}"),
    "artist": (["painter"], "by {}"),
    "movement": (["movement"], "{}"),
    FLAVOR: (["genre", "lighting", "camera", "moment", "quality"], "{}"),
}

Phrases = dict[str, list[str]]


def load_phrases(folder: str | Path | None = None) -> Phrases:
    """Phrases by category, each once.

    Args:
        folder: with files ``CATEGORY.txt``, a phrase a line, in the form in which it enters a
            prompt; ``subject`` and ``flavor`` are special, see
            `unprompt.predicting.interrogator_model`. By default the package's own lists.

    Raises:
        TableError: a file cannot be read.
        UnpromptError: the folder holds no phrases.
    """
    if folder is None:
        rules = load_rules()
        return {
            category: _distinct(
                [_standing(phrase, form) for name in lists for phrase in rules[name]]
            )
            for category, (lists, form) in _OWN.items()
        }
    found = {
        file.stem: _distinct([" ".join(line.split()) for line in prompts_of(file)])
        for file in sorted(Path(folder).glob("*.txt"))
    }
    found = {category: phrases for category, phrases in found.items() if phrases}
    if not found:
        raise UnpromptError(
            f"{folder} holds no phrases; write files CATEGORY.txt into it, a phrase a line"
        )
    return found


def _standing(phrase: str, form: str) -> str:
    """A line of a list as it enters a prompt; ``~`` marks a noun without article."""
    if form == "a {}":
        return fix_articles(f"a {phrase}")
    return form.format(phrase.removeprefix("~"))


def _distinct(phrases: list[str]) -> list[str]:
    return list(dict.fromkeys(filter(None, phrases)))

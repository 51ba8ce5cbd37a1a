"""The phrases that an interrogator composes prompts of, by category.

The default phrases are the word lists of `unprompt.collecting.compose`. A folder of text files can
replace them: each file is a category with one phrase on each line.
"""

from __future__ import annotations

from pathlib import Path

from unprompt.collecting.prompts.grammar import fix_articles, load_rules
from unprompt.errors import UnpromptError
from unprompt.pairs.prompt_file import prompts_of

SUBJECT, FLAVOR = "subject", "flavor"
"""The first category of a prompt without a captioner, and the only one with several phrases."""

# For each category: its word lists, and the form that its phrases have in a prompt.
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
    """Phrases by category, without repetitions.

    Args:
        folder: holds files ``CATEGORY.txt`` with one phrase on each line, written as in a prompt.
            The categories ``subject`` and ``flavor`` are special, see
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
            f"{folder} holds no phrases; it needs files CATEGORY.txt with one phrase on each line"
        )
    return found


def _standing(phrase: str, form: str) -> str:
    """Turn a line of a word list into a phrase; ``~`` marks a noun without an article."""
    if form == "a {}":
        return fix_articles(f"a {phrase}")
    return form.format(phrase.removeprefix("~"))


def _distinct(phrases: list[str]) -> list[str]:
    return list(dict.fromkeys(filter(None, phrases)))

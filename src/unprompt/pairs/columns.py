"""Which columns of a table hold its images and its prompts: those named, else common names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from unprompt.errors import TableError

IMAGE_COLUMNS = (
    *("file", "filepath", "file_path", "file_name", "filename"),
    *("image_path", "image_file", "image", "img_path", "img", "path"),
)
"""Names of a column of image files; the first that a table has is used, in capitals or not."""

PROMPT_COLUMNS = ("prompt", "caption", "text", "title")
"""Names of a column of prompts; the first that a table has is used, in capitals or not."""


@dataclass(frozen=True)
class Columns:
    """How to read a table that another tool wrote. What is None is found out.

    Attributes:
        image: the column of image files.
        prompt: the column of prompts.
        separator: what separates the columns of a CSV file, one character.

    Raises:
        TableError: the separator is not one character.
    """

    image: str | None = None
    prompt: str | None = None
    separator: str | None = None

    def __post_init__(self) -> None:
        stated = {"\\t": "\t", "tab": "\t"}.get(self.separator or "", self.separator)
        if stated is not None and len(stated) != 1:
            raise TableError(f"the separator '{stated}' is not one character; a tab is '\\t'")
        object.__setattr__(self, "separator", stated)


GUESSED = Columns()


def image_column(names: Iterable[str], path: Path, stated: str | None = None) -> str:
    """The column of image files.

    Raises:
        TableError: there is none.
    """
    names = list(names)
    if found := find_column(names, stated, IMAGE_COLUMNS):
        return found
    raise TableError(
        f"{path}: column '{stated or 'file'}' is missing; it holds {', '.join(names) or 'none'}; "
        "name the column of image files with --image-column (in a recipe: data.image_column)"
    )


def prompt_column(names: Iterable[str], path: Path, stated: str | None = None) -> str:
    """The column of prompts.

    Raises:
        TableError: there is none.
    """
    names = list(names)
    if found := find_column(names, stated, PROMPT_COLUMNS):
        return found
    missing = f"column '{stated}' is missing" if stated else "has no column of prompts"
    raise TableError(
        f"{path}: {missing}; the columns are {', '.join(names) or 'none'}. Name the column of "
        "prompts with --prompt-column (in a recipe: data.prompt_column), or write one prompt a "
        "line to a .txt file"
    )


def find_column(names: Sequence[str], stated: str | None, known: Sequence[str]) -> str | None:
    """The column that is stated, else the first of the known names, in capitals or not."""
    if stated is not None:
        return stated if stated in names else None
    by_name = {name.lower().strip(): name for name in reversed(names)}
    return next((by_name[name] for name in known if name in by_name), None)

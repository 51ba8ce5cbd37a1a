"""Answers written beside their images: a caption that trainers take, and where it came from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unprompt.errors import OutputError
from unprompt.files import atomic_open
from unprompt.predicting.answer import Answer
from unprompt.reading.read_sidecar import PREDICTED, one_line


@dataclass
class Sidecars:
    """How many images got their files, and how many keep those of somebody else."""

    written: int = 0
    kept: int = 0

    def __str__(self) -> str:
        kept = f"; {self.kept} keep what others wrote beside them (see --overwrite)"
        return f"{self.written} images got a .txt and a .json{kept if self.kept else ''}"


def write_sidecars(
    answers: Iterable[Answer], counts: Sidecars, overwrite: bool = False
) -> Iterator[Answer]:
    """Write each answer beside its image, see `write_sidecar`, and hand it on.

    Where that cannot be done the answer gets an error. Images without a prompt get no files.
    """
    for answer in answers:
        if answer.prompt is None:
            yield answer
            continue
        try:
            if write_sidecar(answer, overwrite):
                counts.written += 1
            else:
                counts.kept += 1
            yield answer
        except OutputError as error:
            yield replace(answer, error=str(error))


def write_sidecar(answer: Answer, overwrite: bool = False) -> bool:
    """Write ``NAME.txt`` and ``NAME.json`` beside an image.

    The text is the prompt in one line, as kohya's scripts and their like take captions. The JSON
    file is the whole answer, and says with ``predicted`` whether a model guessed it: by that our
    reader takes neither file for the prompt that made the image, and knows both for its own.

    Args:
        answer: with a prompt, of a file on disk.
        overwrite: also replace files that `write_sidecar` did not write, or that were edited since.

    Returns:
        Whether it was written; False where files of another's stand.

    Raises:
        OutputError: the folder cannot be written.
    """
    image = Path(answer.file)
    text, stated = image.with_suffix(".txt"), image.with_suffix(".json")
    if not overwrite and not _ours(image, text, stated):
        return False
    # Without the old text first: a kill between the two files would leave it as if somebody had
    # written it.
    try:
        text.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {text}: {error.strerror}") from error
    with atomic_open(stated) as file:
        fields = answer.to_dict() | {"file": image.name, PREDICTED: answer.route != "read"}
        json.dump(fields, file, ensure_ascii=False, indent=2)
        file.write("\n")
    with atomic_open(text) as file:
        file.write(one_line(answer.prompt or "") + "\n")
    return True


def _ours(image: Path, text: Path, stated: Path) -> bool:
    """Whether the files are free for this image: not there, or written for it and not edited."""
    earlier = None
    if stated.exists():
        earlier = _prompt_of(stated, image)
        if earlier is None:
            return False
    if not text.exists():
        return True
    try:
        return one_line(text.read_text("utf-8")) == earlier
    except (OSError, UnicodeDecodeError):
        return False


def _prompt_of(stated: Path, image: Path) -> str | None:
    """The prompt of a JSON file that `write_sidecar` wrote for this image; None of any other."""
    try:
        fields: Any = json.loads(stated.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    if isinstance(fields, dict) and PREDICTED in fields and fields.get("file") == image.name:
        return one_line(str(fields.get("prompt")))
    return None

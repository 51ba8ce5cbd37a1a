"""Write answers beside their images: a caption file for trainers, and the whole answer as JSON."""

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
    """Number of images that got files, and of images whose older files were kept."""

    written: int = 0
    kept: int = 0

    def __str__(self) -> str:
        kept = f"; {self.kept} keep files that unprompt did not write (see --overwrite)"
        return f"{self.written} images got a .txt and a .json{kept if self.kept else ''}"


def write_sidecars(
    answers: Iterable[Answer], counts: Sidecars, overwrite: bool = False
) -> Iterator[Answer]:
    """Write each answer beside its image, see `write_sidecar`, and yield it.

    If a file cannot be written, the answer gets an error. Images without a prompt get no files.
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

    The text file is the prompt in one line, as kohya's scripts and others read captions. The JSON
    file is the whole answer; its key ``predicted`` states whether a model predicted it. This key
    tells `unprompt.reading` not to take either file for the true prompt.

    Args:
        answer: the answer for a file on disk, with a prompt.
        overwrite: also replace files that `write_sidecar` did not write, or that were edited since.

    Returns:
        Whether the files were written; False if older files were kept.

    Raises:
        OutputError: the folder cannot be written.
    """
    image = Path(answer.file)
    text, stated = image.with_suffix(".txt"), image.with_suffix(".json")
    if not overwrite and not _ours(image, text, stated):
        return False
    # Delete the old text first. If the process were killed between the two files, the old text
    # would not match the new JSON file, as if someone had edited it.
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
    """Whether the files may be written: they are missing, or ours for this image and not edited."""
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
    """The prompt of a JSON file that `write_sidecar` wrote for this image; None for any other."""
    try:
        fields: Any = json.loads(stated.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    if isinstance(fields, dict) and PREDICTED in fields and fields.get("file") == image.name:
        return one_line(str(fields.get("prompt")))
    return None

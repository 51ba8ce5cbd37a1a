"""Whether a run decodes each image once and keeps its pixels on disk: ``data.decode_once``.

The choice concerns time and disk only: `TrainingImages` gives the same pixels either way. So each
call of a run chooses anew, by the disk as it is then, and uses what an earlier call or another run
has kept.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from unprompt.errors import OutputError
from unprompt.files import cache_dir
from unprompt.training.data.images import KIND, TrainingImages
from unprompt.training.recipe import Recipe
from unprompt.training.resources import first_process_first, processes

SHARE = 0.1
"""What ``auto`` leaves to pictures at most, of the disk that is free or holds pictures already."""


@dataclass(frozen=True)
class Choice:
    """What a run keeps.

    Attributes:
        kept: the pictures; none, or those to train on, to validate on, or both.
        line: says so, and why, or what it takes.
    """

    kept: list[TrainingImages]
    line: str


def choose(recipe: Recipe, steps: int, train: TrainingImages, val: TrainingImages) -> Choice:
    """What a run is to keep of its pictures.

    ``auto`` keeps those that are kept already, and those that the run shows more than once on
    average if they find room in `SHARE` of the disk.

    Args:
        recipe: the run.
        steps: of its optimiser.
        train: the pictures to train on.
        val: those to validate on.
    """
    setting, schedule = recipe.data.decode_once, recipe.schedule
    if setting is False:
        return Choice([], "decode_once: no, says the recipe")
    shown = steps * schedule.batch_size * schedule.accumulation * processes()
    looks = schedule.evaluations
    if schedule.evaluate_every:
        looks = math.ceil(steps / schedule.evaluate_every)
    needs = [(pictures, pictures.bytes_to_keep()) for pictures in (train, val) if len(pictures)]
    there = [pictures for pictures, need in needs if not need]
    often = {id(train): shown > len(train), id(val): looks > 1}
    new = [(p, need) for p, need in needs if need and (setting is True or often[id(p)])]
    need, folder = sum(need for _, need in new), cache_dir() / KIND
    if new and setting == "auto" and need > (room := _room()):
        return Choice(
            there,
            f"decode_once: no, {_size(need)} of pixels exceed the {_size(room)} left of "
            f"{SHARE:.0%} of the disk of {folder}; delete old ones there, or set "
            "data.decode_once=true",
        )
    if not new and not there:
        return Choice([], "decode_once: no, the run shows no image twice")
    kept = [pictures for pictures, _ in new] + there
    count = sum(len(pictures) for pictures in kept)
    return Choice(
        kept, f"decode_once: {count:,} images, {_size(need)} of pixels to write to {folder}"
    )


def cache_images(recipe: Recipe, steps: int, train: TrainingImages, val: TrainingImages) -> None:
    """Choose, say so on standard error, and decode what is to be kept.

    Under torchrun the first process does it for those on its machine.

    Raises:
        OutputError: the recipe insists, and the cache cannot be written.
    """
    with first_process_first() as is_first:
        choice = choose(recipe, steps, train, val)
        lines = [choice.line]
        try:
            for pictures in choice.kept:
                pictures.keep()
        except OutputError as error:
            if recipe.data.decode_once is True:
                raise
            lines.append(f"decode_once: not all images, {error}")
        if is_first:
            sys.stderr.writelines(line + "\n" for line in lines)


def _room() -> int:
    """Bytes that pictures may take on the disk, besides those that they take."""
    folder, taken = cache_dir() / KIND, 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # another process may have renamed or deleted it
                taken += (Path(place) / name).stat().st_size
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return max(0, int(SHARE * (shutil.disk_usage(there).free + taken)) - taken)


def _size(count: float) -> str:
    return f"{count / 1e6:,.0f} MB"

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
from unprompt.training.data.images import CACHE, TrainingImages
from unprompt.training.recipe import Recipe
from unprompt.training.resources import first_process_first, processes

SHARE = 0.1
"""Largest share that ``auto`` fills of the disk that is free or holds cached images already."""


@dataclass(frozen=True)
class Choice:
    """The images that a run caches.

    Attributes:
        kept: none, the images to train on, those to validate on, or both.
        line: a line for the user: the choice, and its reason or its space.
    """

    kept: list[TrainingImages]
    line: str


def choose(recipe: Recipe, steps: int, train: TrainingImages, val: TrainingImages) -> Choice:
    """Choose the images that a run caches.

    ``auto`` takes images that are cached already, and images that the run shows more than once on
    average if their pixels fit into `SHARE` of the disk.

    Args:
        recipe: the run.
        steps: optimiser steps of the run.
        train: the images to train on.
        val: the images to validate on.
    """
    setting, schedule = recipe.data.decode_once, recipe.schedule
    if setting is False:
        return Choice([], "decode_once: no, as the recipe says")
    shown = steps * schedule.batch_size * schedule.accumulation * processes()
    evaluations = schedule.evaluations
    if schedule.evaluate_every:
        evaluations = math.ceil(steps / schedule.evaluate_every)
    needs = [(images, images.bytes_to_keep()) for images in (train, val) if len(images)]
    cached = [images for images, need in needs if not need]
    repeated = {id(train): shown > len(train), id(val): evaluations > 1}
    new = [(p, need) for p, need in needs if need and (setting is True or repeated[id(p)])]
    need, folder = sum(need for _, need in new), cache_dir() / CACHE
    if new and setting == "auto" and need > (space := _space()):
        return Choice(
            cached,
            f"decode_once: no, {_size(need)} of pixels exceed the {_size(space)} left of "
            f"{SHARE:.0%} of the disk of {folder}; delete old ones there, or set "
            "data.decode_once=true",
        )
    if not new and not cached:
        return Choice([], "decode_once: no, the run shows no image twice")
    kept = [images for images, _ in new] + cached
    count = sum(len(images) for images in kept)
    return Choice(
        kept, f"decode_once: {count:,} images, {_size(need)} of pixels to write to {folder}"
    )


def cache_images(recipe: Recipe, steps: int, train: TrainingImages, val: TrainingImages) -> None:
    """Choose, print the choice to standard error, and decode the chosen images.

    Under torchrun the first process does it for all processes on its machine.

    Raises:
        OutputError: ``data.decode_once`` is true, and the cache cannot be written.
    """
    with first_process_first() as is_first:
        choice = choose(recipe, steps, train, val)
        lines = [choice.line]
        try:
            for images in choice.kept:
                images.keep()
        except OutputError as error:
            if recipe.data.decode_once is True:
                raise
            lines.append(f"decode_once: not all images, {error}")
        if is_first:
            sys.stderr.writelines(line + "\n" for line in lines)


def _space() -> int:
    """Bytes that cached images may take on the disk beyond those that they take already."""
    folder, taken = cache_dir() / CACHE, 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # another process may have renamed or deleted it
                taken += (Path(place) / name).stat().st_size
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return max(0, int(SHARE * (shutil.disk_usage(there).free + taken)) - taken)


def _size(count: float) -> str:
    return f"{count / 1e6:,.0f} MB"

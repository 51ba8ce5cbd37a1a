"""Resources of a run: its processes, its memory and its disk."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from unprompt.errors import TrainingError
from unprompt.training.recipe import Recipe

PROCESS_TIMEOUT = 24 * 3600
"""Seconds that processes wait for the first process, which prepares table and head."""

_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "unable to allocate")
_DISK = ("no space left", "file too large", "disk quota", "file write failed", "writing file")


def processes() -> int:
    """Number of processes of the run, from torchrun's environment."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Let the C library keep the memory that is freed in the block for the next allocations.

    Each step on a CPU frees its activations and allocates as many again. By default glibc returns
    the memory to the system, which fills every page with zeros before it gives the page out again:
    a quarter of a step of a MobileNet (experiments/NOTES.md). At the end of the block the memory
    is returned. With other C libraries and on a GPU nothing changes.
    """
    library: Any = ctypes.CDLL(None) if sys.platform == "linux" else None
    if torch.cuda.is_available() or not hasattr(library, "mallopt"):
        yield
        return
    # Numbers and defaults of glibc's malloc.h and mallopt(3).
    trim_threshold, mmap_max = -1, -4
    library.mallopt(mmap_max, 0)
    library.mallopt(trim_threshold, 2**31 - 1)
    try:
        yield
    finally:
        library.mallopt(mmap_max, 65_536)
        library.mallopt(trim_threshold, 128 * 1024)
        library.malloc_trim(0)


@contextmanager
def first_process_first() -> Iterator[bool]:
    """Run the block in the first process, then in the others; yields whether this is the first.

    An error in the first process ends the others too, since torchrun ends them all.
    """
    if processes() == 1:
        yield True
        return
    if not distributed.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        distributed.init_process_group(
            "nccl" if torch.cuda.is_available() else "gloo",
            timeout=timedelta(seconds=PROCESS_TIMEOUT),
        )
    is_first = distributed.get_rank() == 0
    if not is_first:
        distributed.barrier()
    yield is_first
    if is_first:
        distributed.barrier()


@contextmanager
def errors_explained(recipe: Recipe) -> Iterator[None]:
    """Turn errors of full memory or a full disk into errors with advice.

    Raises:
        TrainingError: memory or disk ran out.
    """
    try:
        yield
    except Exception as error:  # each library has errors of its own
        reason = " ".join(str(error).split())
        if isinstance(error, MemoryError) or _says(reason, _MEMORY):
            raise TrainingError(f"out of memory: {reason}; {_memory_advice(recipe)}") from error
        if _says(reason, _DISK):
            raise TrainingError(
                f"the disk is full or the checkpoint too large for it: {reason}; the last whole "
                "checkpoint is intact. Free some space, or lower schedule.keep; the same command "
                "then resumes from it"
            ) from error
        raise


def _says(reason: str, phrases: tuple[str, ...]) -> bool:
    return any(phrase in reason.lower() for phrase in phrases)


def _memory_advice(recipe: Recipe) -> str:
    schedule = recipe.schedule
    ways = []
    if schedule.batch_size > 1:
        half = (schedule.batch_size + 1) // 2
        ways.append(
            f"schedule.batch_size={half} schedule.accumulation={schedule.accumulation * 2}, which "
            "trains the same model"
        )
    if not schedule.gradient_checkpointing:
        ways.append("schedule.gradient_checkpointing=true")
    if schedule.precision == "fp32":
        ways.append("schedule.precision=bf16")
    if recipe.model.freeze >= 0:
        ways.append("a larger model.freeze")
    return "try " + ", or ".join([*ways, "a smaller model.size"])

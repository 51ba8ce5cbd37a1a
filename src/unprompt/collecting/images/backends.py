"""The backends of `unprompt generate`, by name."""

from __future__ import annotations

from typing import Any

from unprompt.collecting.images.jobs import Backend
from unprompt.collecting.sketches.sketch import SketchBackend
from unprompt.errors import UnpromptError

BACKENDS = ("diffusers", "sketch")


def make_backend(
    name: str, *, size: int | None = None, model: str | None = None, **options: Any
) -> Backend:
    """A backend by name.

    Args:
        name: one of `BACKENDS`.
        size: side of the images in pixels; 128 for sketches, the model's own for diffusers.
        model: the pipeline of diffusers, hub id or folder; Stable Diffusion 2 base by default.
        options: for diffusers, fields of `unprompt.collecting.images.diffusion.Diffusion`.

    Raises:
        UnpromptError: the backend is unknown, or cannot make images of this size.
    """
    if name == "sketch":
        return SketchBackend(128 if size is None else size)
    if name == "diffusers":
        from unprompt.collecting.images.diffusion import Diffusion, DiffusionBackend

        if model is not None:
            options["model"] = model
        return DiffusionBackend.from_pretrained(Diffusion(size=size, **options))
    raise UnpromptError(f"unknown backend '{name}'; choose one of {', '.join(BACKENDS)}")

"""Backends of `unprompt.pairs.generate.generate` by name."""

from __future__ import annotations

from unprompt.errors import UnpromptError
from unprompt.pairs.generate import Backend
from unprompt.pairs.sketch import SketchBackend

BACKENDS = ("sketch",)


def make_backend(name: str, *, size: int = 128) -> Backend:
    """A backend that makes images of ``size`` pixels.

    Raises:
        UnpromptError: no such backend, or it cannot make this size.
    """
    if name == "sketch":
        return SketchBackend(size)
    raise UnpromptError(f"unknown backend '{name}'; choose one of {', '.join(BACKENDS)}")

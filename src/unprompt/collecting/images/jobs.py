"""The images to make, and the interface of a backend that makes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from unprompt.errors import UnpromptError


@dataclass(frozen=True, slots=True)
class Job:
    """One image to make.

    Attributes:
        prompt_id: 16 hexadecimal digits, a hash of the prompt.
        index: number of the image among those of its prompt, from 0.
        seed: seed of this image, below 2**32; it depends only on prompt id, index and run seed.
    """

    prompt: str
    prompt_id: str
    index: int
    seed: int

    @property
    def id(self) -> str:
        """The pair's id."""
        return f"{self.prompt_id}-{self.index}"


class Backend(Protocol):
    """Makes images from prompts."""

    @property
    def name(self) -> str:
        """Value of the column ``generator``."""
        ...

    @property
    def licence(self) -> str | None:
        """Licence of the images, if it is known."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything that the images depend on besides prompt and seed, ready for JSON.

        The keys ``negative_prompt``, ``steps``, ``sampler`` and ``guidance`` become columns.
        """
        ...

    @property
    def batch_size(self) -> int:
        """Number of jobs in one call of `draw`."""
        ...

    def warn(self, prompt: str) -> str | None:
        """A warning about a prompt, such as "the model does not read its end", or None."""
        ...

    def draw(self, jobs: Sequence[Job]) -> Sequence[Image.Image | UnpromptError]:
        """The image of each job, or the error that prevented it."""
        ...

"""Parse the names of models: the library, and the parts of an open_clip name.

``timm/NAME``, ``hf/ID_OR_DIR``, ``hf_clip/ID_OR_DIR`` and ``open_clip/NAME`` name a model of a
library. An open_clip NAME is ``ARCHITECTURE[:TAG_OR_FILE]``, ``hf-hub:ORG/MODEL``,
``local-dir:FOLDER`` or the path of a file of weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Source = Literal["architecture", "hf-hub", "local-dir", "file"]


def split_library(name: str) -> tuple[str, str]:
    """Split off the library: ``timm/resnet18`` to ``timm`` and ``resnet18``."""
    library, _, rest = name.partition("/")
    return library, rest


@dataclass(frozen=True)
class OpenClipName:
    """The parts of an open_clip name.

    Attributes:
        source: where the model comes from.
        place: the architecture, hub repository, folder or file.
        weights: tag or file of an architecture's weights.
    """

    source: Source
    place: str
    weights: str | None = None

    @classmethod
    def parse(cls, name: str) -> OpenClipName:
        """Read a name with or without the prefix ``open_clip/``."""
        name = name.removeprefix("open_clip/")
        if Path(name).is_file():
            return cls("file", name)
        first, _, rest = name.partition(":")
        if first == "hf-hub":
            return cls("hf-hub", rest)
        if first == "local-dir":
            return cls("local-dir", rest)
        return cls("architecture", first, rest or None)

    def __str__(self) -> str:
        return f"{self.model}:{self.weights}" if self.weights else self.model

    @property
    def model(self) -> str:
        """The ``model_name`` of ``open_clip.create_model``."""
        on_hub_or_disk = self.source in ("hf-hub", "local-dir")
        return f"{self.source}:{self.place}" if on_hub_or_disk else self.place

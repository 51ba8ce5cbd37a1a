"""Public weights that predict without training: what to download, how large, under which licence.

Sizes are of the one weights file that is loaded, in 32 bits (parameters x 4 bytes, 1 GB = 10^9
bytes). Licences are those that the model cards state. None of it is downloaded unless it is named.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Public:
    """Weights on the Hugging Face hub.

    Attributes:
        repository: on the hub.
        gigabytes: of the weights.
        licence: as the model card states it.
        names: how `unprompt.predicting.model.load_model` takes them from the hub, or open_clip.
        local: how it takes them from a folder; ``{}`` stands for the folder.
    """

    repository: str
    gigabytes: float
    licence: str
    names: tuple[str, ...]
    local: str = "{}"


PUBLIC: tuple[Public, ...] = ()


def advice(name: str) -> str:
    """What to download where the hub does not answer for a name; empty for other names."""
    for model in PUBLIC:
        if name in (model.repository, *model.names):
            return (
                f"it takes {model.gigabytes:.2g} GB ({model.licence}): on a machine that reaches "
                f"the hub run 'hf download {model.repository} --local-dir DIR', bring DIR here and "
                f"name it {model.local.format('DIR')}"
            )
    return ""

"""Image towers of contrastive models: from images to the space that texts share.

Their names are those in `unprompt.models.text_towers`; `unprompt.models.backbones` loads them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn import functional as F

from unprompt.devices import choose_device, placed
from unprompt.models.backbones import Backbone, BackboneConfig, create_backbone
from unprompt.models.preprocessing import Preprocessing


@dataclass(frozen=True)
class ImageTower:
    """A loaded image tower.

    Attributes:
        name: its name.
        backbone: its network.
        device: device of the network.
    """

    name: str
    backbone: Backbone = field(repr=False)
    device: str = "cpu"

    @property
    def preprocessing(self) -> Preprocessing:
        """How images become the tower's input."""
        return self.backbone.preprocessing

    @property
    def dim(self) -> int:
        """Width of the features."""
        return self.backbone.dim

    def features(self, pixels: np.ndarray) -> np.ndarray:
        """Unit-norm features of uint8 pixels (n, 3, size, size), float32 of shape (n, dim)."""
        with torch.inference_mode():
            batch = normalised(pixels, self.preprocessing, self.device)
            features: np.ndarray = F.normalize(self.backbone(batch).float(), dim=-1).cpu().numpy()
        return features


def create_image_tower(name: str, device: str | None = None) -> ImageTower:
    """Load an image tower with its pretrained weights, from the local hub cache or the hub.

    Args:
        name: ``hf_clip/…``, ``hf/…`` or ``open_clip/…``.
        device: by default ``cuda`` if there is one.

    Raises:
        ModelNotFoundError: the weights cannot be found or downloaded.
        UnpromptError: the name has no known prefix, or the device cannot be used.
    """
    device = choose_device(device)
    return ImageTower(name, placed(create_backbone(BackboneConfig(name)), device), device)


def normalised(
    pixels: np.ndarray,
    preprocessing: Preprocessing,
    device: str | torch.device,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Move uint8 pixels (n, 3, size, size) to a model's device and normalise them there."""
    batch = torch.from_numpy(pixels).to(device, dtype) / 255
    mean, std = (
        torch.tensor(values, device=device, dtype=dtype)[:, None, None]
        for values in (preprocessing.mean, preprocessing.std)
    )
    return (batch - mean) / std

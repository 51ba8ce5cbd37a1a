"""What cached generation keeps between steps."""

from __future__ import annotations

import torch
from transformers.cache_utils import Cache, DynamicLayer

KeysValues = tuple[torch.Tensor, torch.Tensor]


class CoCaCache(Cache):
    """Keys and values of both text towers, and of the image.

    The self-attention layers (the text tower's first, then the decoder's) grow by one position a
    step and follow the beams. The image's keys and values of each cross-attention are computed
    once and kept once per image: all beams and samples of an image attend to the same copy, and
    reordering beams, which never leave their image, does not touch them.

    Attributes:
        image: for each cross-attention, keys and values of shape (images, heads, tokens, width of
            a head); empty before the first step.
    """

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=DynamicLayer)
        self.image: list[KeysValues] = []

    def reset(self) -> None:
        """Forget texts and images."""
        super().reset()
        self.image = []

"""The cache of keys and values that generation keeps between steps."""

from __future__ import annotations

import torch
from transformers.cache_utils import Cache

from unprompt.models.coca.configuration import CoCaConfig

KeysValues = tuple[torch.Tensor, torch.Tensor]

# Buffers grow by at least this many positions; larger ones double.
_GROWTH = 16


class CoCaCache(Cache):
    """Keys and values of both text towers, and of the image.

    Each self-attention layer (those of the text tower first, then those of the decoder) has a
    buffer, and each step adds its positions. The keys and values of an image are computed once for
    each cross-attention; all beams and samples of the image attend to the same copy.

    Beam search reorders rows at every step, but no keys are moved: the beams of an image share one
    buffer, each row records which beam wrote each of its positions, and a mask hides the others.
    So a step writes one position and copies none. Gradients do not flow through the cache.

    Attributes:
        beams: rows in a group: the beams of one image, which `reorder_cache` reorders.
        image: for each cross-attention, keys and values of shape (images, heads, tokens, width of
            a head); empty before the first step.
    """

    def __init__(self, beams: int = 1) -> None:
        super().__init__(layers=[])
        self.beams = beams
        self.reset()

    def reset(self) -> None:
        """Remove all texts and images."""
        self.image: list[KeysValues] = []
        # Keys and values of the layers of each tower, text first: (layers, 2, groups, heads,
        # capacity, beams, width of a head).
        self._buffers: list[torch.Tensor] = []
        self._length = 0
        # For each layer in the current step: the views to write to, and all its keys and values.
        self._layers: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        # The beam that wrote each position of each row, (rows, length).
        self._writers: torch.Tensor | None = None

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of positions in the cache, the same in every layer."""
        return self._length

    def extend(self, config: CoCaConfig, rows: int, length: int, device: torch.device) -> None:
        """Begin a step of ``length`` positions in each row, before `append` to every layer."""
        self._towers = (
            (config.text_layers, config.text_heads),
            (config.decoder_layers, config.decoder_heads),
        )
        if self.beams == 1:
            return
        own = (torch.arange(rows, device=device) % self.beams)[:, None].expand(-1, length)
        known = self._writers
        self._writers = own if known is None else torch.cat([known, own], dim=1)

    def spread(self, mask: torch.Tensor | None) -> torch.Tensor | None:
        """Turn a mask over the positions of a row into one over all positions of its group.

        Args:
            mask: bool, (rows or 1, 1, new positions, positions); None if each row has one new
                position, which attends to all.

        Returns:
            bool, (groups, 1, beams * new positions, positions * beams); ``mask`` if beams is 1.
        """
        if self.beams == 1 or self._writers is None:
            return mask
        rows, positions = self._writers.shape
        shape = (rows // self.beams, self.beams, 1, positions, 1)
        beam = torch.arange(self.beams, device=self._writers.device)
        seen = self._writers.view(shape) == beam
        if mask is not None:
            mask = mask.expand(rows, -1, -1, -1)
            seen = seen & mask.reshape(*shape[:2], -1, positions, 1)
        return seen.reshape(shape[0], 1, -1, positions * self.beams)

    def append(self, pair: torch.Tensor, layer: int) -> KeysValues:
        """Add a step to a layer.

        Args:
            pair: keys and values, (rows, new positions, 2, heads, width of a head).
            layer: its number; layers fill in order.

        Returns:
            All keys and values of each group, (groups, heads, positions * beams, width of a head),
            position by position; views of the buffers.
        """
        if layer == 0:
            self._cut(pair.shape[0], pair.shape[1], pair[0, 0, 0].numel(), pair)
        new, keys, values = self._layers[layer]
        new.copy_((pair.detach() if pair.requires_grad else pair).view(new.shape))
        return keys, values

    def _cut(self, rows: int, length: int, width: int, like: torch.Tensor) -> None:
        """Slice the buffers for a step of all layers at once, so that each layer only copies."""
        start, end = self._length, self._length + length
        if not self._buffers:
            groups = rows // self.beams
            self._buffers = [
                like.new_empty(layers, 2, groups, heads, 0, self.beams, width // heads)
                for layers, heads in self._towers
            ]
        if end > self._buffers[0].shape[4]:
            capacity = max(end, 2 * start, _GROWTH)
            self._buffers = [_grown(buffer, start, capacity) for buffer in self._buffers]
        self._length, self._layers = end, []
        for buffer in self._buffers:
            new = buffer.narrow(4, start, length).permute(0, 2, 5, 4, 1, 3, 6)
            keys, values = buffer.narrow(4, 0, end).flatten(4, 5).unbind(1)
            self._layers += zip(new.unbind(0), keys.unbind(0), values.unbind(0), strict=True)

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Continue row r from the texts of row ``beam_idx[r]``, which has the same image."""
        order = beam_idx.long()
        if self._writers is not None:
            self._writers = self._writers[order]
            return
        self._buffers = [buffer[:, :, order] for buffer in self._buffers]

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last ``-tokens_to_remove`` positions (a negative number)."""
        self._length += tokens_to_remove
        if self._writers is not None:
            self._writers = self._writers[:, : self._length]

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Not needed by any search that CoCa offers."""
        raise NotImplementedError("CoCaCache cannot repeat its rows")

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Not needed by any search that CoCa offers."""
        raise NotImplementedError("CoCaCache cannot drop rows")

    @property
    def is_compileable(self) -> bool:
        """Whether shapes stay the same from step to step."""
        return False


def _grown(buffer: torch.Tensor, length: int, capacity: int) -> torch.Tensor:
    larger = buffer.new_empty(*buffer.shape[:4], capacity, *buffer.shape[5:])
    larger[:, :, :, :, :length] = buffer[:, :, :, :, :length]
    return larger

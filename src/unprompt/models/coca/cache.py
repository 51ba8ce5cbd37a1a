"""What cached generation keeps between steps."""

from __future__ import annotations

import torch
from transformers.cache_utils import Cache

KeysValues = tuple[torch.Tensor, torch.Tensor]

# Positions by which buffers grow at least; beyond, they double.
_GROWTH = 16


class CoCaCache(Cache):
    """Keys and values of both text towers, and of the image.

    Each self-attention layer (the text tower's first, then the decoder's) has a buffer to which a
    step adds its positions. The image's keys and values of each cross-attention are computed once
    and kept once per image: all beams and samples of an image attend to the same copy.

    Beam search moves rows at every step. Here nothing moves: the beams of an image stay side by
    side in one buffer, each row remembers which beam wrote each of its positions, and a mask shows
    it just those. A step thus writes one position and copies none.

    Attributes:
        beams: rows that belong together: beams of one image, among which `reorder_cache` chooses.
        image: for each cross-attention, keys and values of shape (images, heads, tokens, width of
            a head); empty before the first step.
    """

    def __init__(self, beams: int = 1) -> None:
        super().__init__(layers=[])
        self.beams = beams
        self.reset()

    def reset(self) -> None:
        """Forget texts and images."""
        self.image: list[KeysValues] = []
        # A layer's keys and values, (2, groups, heads, capacity, beams, width of a head).
        self._buffers: list[torch.Tensor] = []
        self._lengths: list[int] = []
        # The beam that wrote each position of each row, (rows, length).
        self._writers: torch.Tensor | None = None

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Positions that a layer holds."""
        return self._lengths[layer_idx] if self._lengths else 0

    def extend(self, rows: int, length: int, device: torch.device) -> None:
        """Announce a step of ``length`` positions in each row; `append` to every layer follows."""
        if self.beams == 1:
            return
        own = (torch.arange(rows, device=device) % self.beams)[:, None].expand(-1, length)
        known = self._writers
        self._writers = own if known is None else torch.cat([known, own], dim=1)

    def spread(self, mask: torch.Tensor | None) -> torch.Tensor | None:
        """Turn a mask over a row's own positions into one over all that its group wrote.

        Args:
            mask: bool, (rows or 1, 1, new positions, positions), or None where the new positions,
                one a row, see all.

        Returns:
            bool, (groups, 1, beams * new positions, positions * beams); as given for one beam.
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
            pair: keys and values, (2, rows, heads, new positions, width of a head).
            layer: its number; layers fill in order.

        Returns:
            All keys and values of each group, (groups, heads, positions * beams, width of a head),
            position by position; views of the buffers.
        """
        _, rows, heads, length, width = pair.shape
        if layer == len(self._buffers):
            groups = rows // self.beams
            self._buffers.append(pair.new_empty(2, groups, heads, 0, self.beams, width))
            self._lengths.append(0)
        buffer, start = self._buffers[layer], self._lengths[layer]
        end = self._lengths[layer] = start + length
        if end > buffer.shape[3]:
            buffer = self._buffers[layer] = _grown(buffer, start, max(end, 2 * start, _GROWTH))
        grouped = pair.view(2, -1, self.beams, heads, length, width).permute(0, 1, 3, 4, 2, 5)
        buffer.narrow(3, start, length).copy_(grouped)
        keys, values = buffer.narrow(3, 0, end).flatten(3, 4)
        return keys, values

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Go on with other rows: row r with what row ``beam_idx[r]``, of the same image, holds."""
        order = beam_idx.long()
        if self._writers is not None:
            self._writers = self._writers[order]
            return
        self._buffers = [buffer[:, order] for buffer in self._buffers]

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last ``-tokens_to_remove`` positions."""
        self._lengths = [length + tokens_to_remove for length in self._lengths]
        if self._writers is not None:
            self._writers = self._writers[:, : self.get_seq_length()]

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Not needed by any search that CoCa offers."""
        raise NotImplementedError("CoCaCache cannot repeat its rows")

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Not needed by any search that CoCa offers."""
        raise NotImplementedError("CoCaCache cannot drop rows")

    @property
    def is_compileable(self) -> bool:
        """Whether its shapes stay the same from step to step."""
        return False


def _grown(buffer: torch.Tensor, length: int, capacity: int) -> torch.Tensor:
    _, groups, heads, _, beams, width = buffer.shape
    larger = buffer.new_empty(2, groups, heads, capacity, beams, width)
    larger[:, :, :, :length] = buffer[:, :, :, :length]
    return larger

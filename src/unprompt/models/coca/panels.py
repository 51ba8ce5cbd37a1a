"""Weights in panels of columns, and products of few rows by them at the speed of memory.

A step of generation multiplies four rows, or twenty-four, by every weight of the text towers. What
it takes is the time to read them, if the arithmetic hides behind the reading. oneDNN's and MKL's
products, made for many rows, do not hide it: for four rows they take a quarter longer than a
matrix-vector product. Here the outputs of a layer are cut into panels of a few registers' width,
each laid out in the order in which it is read, and fetched ahead; the sums of a panel stay in
registers. That takes as long as a matrix-vector product for up to eight rows, and as long as
oneDNN for hundreds, so that one layout serves captions being written and captions being read
(benchmarks/RESULTS.md). The layers of a block that follow one another are one call.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from unprompt.models.coca import team

COLUMNS = 32
"""Outputs of a panel."""


def is_available() -> bool:
    """Whether numba is installed, the processor has AVX-512, and PyTorch's threads can be had."""
    if find_spec("numba") is None or not team.is_available():
        return False
    from llvmlite import binding

    return bool(binding.get_host_cpu_features().get("avx512f"))


def fits(linear: nn.Linear) -> bool:
    """Whether a layer is of float32 and makes up whole panels."""
    return linear.weight.dtype == torch.float32 and linear.out_features % COLUMNS == 0


def _rows(x: torch.Tensor, width: int) -> torch.Tensor:
    """What compiled code may read by its address."""
    if not x.is_cpu or x.dtype != torch.float32 or x.shape[-1] != width:
        is_given = f"{x.dtype} of {tuple(x.shape)} on {x.device}"
        raise TypeError(f"a packed model takes float32 of (..., {width}) on a CPU, not {is_given}")
    return x.contiguous()


class _Resident:
    """Holds addresses, which mean nothing in a copy or in another process."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("a packed model cannot be copied, pickled or saved: do so before `pack`")


class PanelLinear(_Resident, nn.Module):
    """A linear layer for inference on a CPU, its weight in panels.

    Args:
        linear: a layer that `fits`.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        weight, bias = linear.weight.detach(), linear.bias
        self.inputs, self.outputs = linear.in_features, linear.out_features
        panels = weight.view(-1, COLUMNS, self.inputs).transpose(1, 2)
        self.weight = panels.contiguous()
        self.bias = weight.new_zeros(self.outputs) if bias is None else bias.detach()
        # Of memory that the tensors above keep.
        self.places = self.weight.data_ptr(), self.bias.data_ptr()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As `nn.Linear`."""
        from unprompt.models.coca.panel_kernels import linear

        x = _rows(x, self.inputs)
        out = x.new_empty(*x.shape[:-1], self.outputs)
        rows = x.numel() // self.inputs
        team.run(
            linear.address, x.data_ptr(), out.data_ptr(), rows, self.inputs, self.outputs,
            *self.places,
        )  # fmt: skip
        return out


class PanelBlock(_Resident):
    """What a block computes before and after attention, each in one call.

    Args:
        norms: the block's two.
        layers: its projection, and the three that follow attention.
    """

    def __init__(self, norms: Sequence[nn.LayerNorm], layers: Sequence[PanelLinear]):
        from unprompt.models.coca.panel_kernels import finish, project, step

        self._project, self._finish, self._step = project.address, finish.address, step.address
        self._norms = [
            torch.cat([norm.weight.detach(), norm.bias.detach(), torch.tensor([norm.eps])])
            for norm in norms
        ]
        projection, *others = self._layers = layers
        self._inputs, self._outputs = projection.inputs, projection.outputs
        self._wide = others[1].outputs
        first, second = (norm.data_ptr() for norm in self._norms)
        self._projecting = self._inputs, self._outputs, first, *projection.places
        places = [place for layer in others for place in layer.places]
        self._finishing = self._inputs, self._wide, second, *places
        self._stepping = self._inputs, self._wide, *self._projecting[1:], second, *places

    def project(self, x: torch.Tensor) -> torch.Tensor:
        """The first norm, and the projection to what attention takes."""
        x = _rows(x, self._inputs)
        out = x.new_empty(*x.shape[:-1], self._outputs)
        room = torch.empty_like(x)
        rows = x.numel() // x.shape[-1]
        team.run(
            self._project, x.data_ptr(), out.data_ptr(), room.data_ptr(), rows, *self._projecting
        )
        return out

    def finish(self, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """What follows attention, given the block's input and what attention gathered."""
        x, attended = _rows(x, self._inputs), _rows(attended, self._inputs)
        out = torch.empty_like(x)
        rows = x.numel() // x.shape[-1]
        room, wide = x.new_empty(2 * x.numel()), x.new_empty(rows * self._wide)
        team.run(
            self._finish, attended.data_ptr(), x.data_ptr(), out.data_ptr(), room.data_ptr(),
            wide.data_ptr(), rows, *self._finishing,
        )  # fmt: skip
        return out

    def step(
        self, x: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, length: int
    ) -> torch.Tensor:
        """The whole block, for rows that see all of so many positions.

        Args:
            x: (rows, 1, width).
            keys: contiguous, (groups, heads, capacity, width of a head); rows that follow one
                another look at the same group. Where the projection gives keys and values too, a
                row is a group, and they are written to the last of the positions first.
            values: likewise.
            length: positions.

        Returns:
            As ``x``.
        """
        x = _rows(x, self._inputs)
        out = torch.empty_like(x)
        rows, width = x.shape[0], x.shape[2]
        groups, heads, capacity, _ = keys.shape
        shares = heads * (-(-length // 16) * 16)
        room = x.new_empty(rows * (3 * width + self._outputs + self._wide + shares))
        team.run(
            self._step, x.data_ptr(), out.data_ptr(), room.data_ptr(), rows, *self._stepping,
            keys.data_ptr(), values.data_ptr(), groups, heads, capacity, length,
        )  # fmt: skip
        return out


def panelled(norms: Sequence[nn.LayerNorm], layers: Sequence[Any]) -> PanelBlock | None:
    """A block's layers in one, if all are in panels."""
    if not all(isinstance(layer, PanelLinear) for layer in layers):
        return None
    return PanelBlock(norms, layers)

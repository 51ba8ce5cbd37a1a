"""Pack CoCa's linear layers in oneDNN's layout, so that it writes captions faster on a CPU.

A step of generation multiplies a few rows by every weight of the text towers. Reading the weights
takes most of its time, and oneDNN's blocked layout, which PyTorch uses in compiled models, is read
faster than the ordinary one. A packed block also computes bias, activation and residual within the
products (benchmarks/coca.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, cast

import torch
from torch import nn
from transformers.activations import GELUActivation

from unprompt.errors import UnpromptError
from unprompt.models.coca.layers import Block, CrossBlock, SelfBlock
from unprompt.models.coca.modeling import CoCaForConditionalGeneration

# The number of rows that the layout is chosen for; layers take any number.
_ROWS = 24
_linear = torch.ops.mkldnn._linear_pointwise.default
_linear_and = torch.ops.mkldnn._linear_pointwise.binary


class PackedLinear(nn.Module):
    """A linear layer for inference on a CPU, with its weight in oneDNN's layout."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        weight = linear.weight.detach()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
        # oneDNN reads a bias with strides as if it were contiguous.
        self.bias = None if linear.bias is None else linear.bias.detach().contiguous()

    def _save_to_state_dict(self, *_: Any) -> NoReturn:
        raise UnpromptError(
            "a packed model cannot be saved, because its weights are in oneDNN's layout; save it "
            "before `pack`"
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As `nn.Linear`."""
        result: torch.Tensor = _linear(x, self.weight, self.bias, "none", [], "")
        return result


class _Packed:
    """The two halves of a `Block` with as few operations as possible.

    Here each call of a module or an operation takes several times longer than usual, because every
    step reads hundreds of megabytes of weights, which empties the caches.
    """

    def __init__(self, block: Block):
        nn.Module.__init__(cast("nn.Module", self))
        for name, child in block.named_children():
            setattr(self, name, child)
        self._norms = [
            (norm.normalized_shape, norm.weight.detach(), norm.bias.detach(), norm.eps)
            for norm in (block.norm_1, block.norm_2)
        ]
        attention, mlp = block.attention, block.mlp
        layers = attention.projection, attention.out, mlp.expand, mlp.contract
        self._weights = [(layer.weight, layer.bias) for layer in layers]
        self._mlp: Any = mlp
        self._gelu = isinstance(mlp.activation, GELUActivation)

    def project(self, x: torch.Tensor) -> torch.Tensor:
        """As `Block.project`."""
        normed = torch.layer_norm(x, *self._norms[0])
        result: torch.Tensor = _linear(normed, *self._weights[0], "none", [], "")
        return result

    def finish(self, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """As `Block.finish`."""
        _, out, expand, contract = self._weights
        x = _linear_and(attended, x, *out, "add")
        normed = torch.layer_norm(x, *self._norms[1])
        if self._gelu:
            hidden = _linear(normed, *expand, "gelu", [], "none")
        else:
            hidden = self._mlp.activation(self._mlp.expand(normed))
        result: torch.Tensor = _linear_and(hidden, x, *contract, "add")
        return result


class PackedSelfBlock(_Packed, SelfBlock):
    """A `SelfBlock` of packed layers."""


class PackedCrossBlock(_Packed, CrossBlock):
    """A `CrossBlock` of packed layers."""


def pack(model: CoCaForConditionalGeneration) -> CoCaForConditionalGeneration:
    """Make a model generate faster on a CPU. It can then no longer be trained or saved.

    Logits stay the same up to rounding.

    Args:
        model: on a CPU, in fp32 or bf16; changed in place.

    Returns:
        The same model. A bf16 model stays unpacked if oneDNN cannot multiply in bf16 (without
        AVX-512).

    Raises:
        UnpromptError: the model is not on a CPU, or PyTorch was built without oneDNN.
    """
    if model.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        raise UnpromptError("packing needs a model on a CPU and a PyTorch built with oneDNN")
    if model.dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return model.eval()
    replacements: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
        nn.Linear: PackedLinear,
        SelfBlock: PackedSelfBlock,
        CrossBlock: PackedCrossBlock,
    }
    for original, packed in replacements.items():
        for module in list(model.modules()):
            for name, child in module.named_children():
                if isinstance(child, original):
                    setattr(module, name, packed(child))
    return model.eval()

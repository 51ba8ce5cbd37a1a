"""CoCa's towers laid out for generation on a CPU.

A step of generation multiplies a few rows by every weight of the text towers, so that reading the
weights takes most of its time, and how they lie in memory decides how fast. Where the processor
and what is installed allow it, they lie in `unprompt.models.coca.panels`. Elsewhere oneDNN's own
blocked layout, which PyTorch uses when it compiles models, runs such products 1.4 to 2.3 times as
fast as the ordinary one (fp32, 4 to 24 rows). The rest of a step is many small operations, which
cost more by their number than by their arithmetic: a packed block fuses those that oneDNN can fuse,
bias, activation and residual, with the products.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import nn
from transformers.activations import GELUActivation

from unprompt.errors import UnpromptError
from unprompt.models.coca import panels
from unprompt.models.coca.kv_cache import CoCaCache, KeysValues
from unprompt.models.coca.layers import Block, CrossBlock, SelfBlock
from unprompt.models.coca.modeling import CoCaForConditionalGeneration
from unprompt.models.coca.panels import PanelLinear
from unprompt.models.coca.texts import Ragged

# Rows for which the layout is chosen; any number works.
_ROWS = 24
_linear = torch.ops.mkldnn._linear_pointwise.default
_linear_and = torch.ops.mkldnn._linear_pointwise.binary


class PackedLinear(nn.Module):
    """A linear layer for inference on a CPU, its weight in oneDNN's layout."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        weight = linear.weight.detach()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As `nn.Linear`."""
        result: torch.Tensor = _linear(x, self.weight, self.bias, "none", [], "")
        return result


def _layers(block: Block) -> tuple[Any, ...]:
    """The projection, and the layers that follow attention."""
    attention, mlp = block.attention, block.mlp
    return attention.projection, attention.out, mlp.expand, mlp.contract


def _has_gelu(block: Block) -> bool:
    """Whether a block has the GELU by the error function, which oneDNN and panels have too."""
    return isinstance(block.mlp.activation, GELUActivation)


class _Packed:
    """A block of packed layers that runs as few operations as it can.

    While a step streams hundreds of megabytes of weights through the caches, each call of a module
    or an operation costs several times what it costs alone: here are none but the needed ones.
    """

    def __init__(self, block: Block):
        nn.Module.__init__(cast("nn.Module", self))
        for name, child in block.named_children():
            setattr(self, name, child)
        self._norms = [
            (norm.normalized_shape, norm.weight.detach(), norm.bias.detach(), norm.eps)
            for norm in (block.norm_1, block.norm_2)
        ]
        layers = _layers(block)
        self._weights = [(layer.weight, layer.bias) for layer in layers]
        self._mlp: Any = block.mlp
        self._gelu = _has_gelu(block)
        self._panels = panels.panelled((block.norm_1, block.norm_2), layers)

    def project(self, x: torch.Tensor) -> torch.Tensor:
        """As `Block.project`."""
        if self._panels is not None:
            return self._panels.project(x)
        normed = torch.layer_norm(x, *self._norms[0])
        result: torch.Tensor = _linear(normed, *self._weights[0], "none", [], "")
        return result

    def finish(self, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """As `Block.finish`."""
        if self._panels is not None:
            return self._panels.finish(x, attended)
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

    def forward(
        self,
        x: torch.Tensor,
        mask: torch.Tensor | None = None,
        causal: bool = False,
        ragged: Ragged | None = None,
        past_key_values: CoCaCache | None = None,
    ) -> torch.Tensor:
        """As `SelfBlock.forward`; a step of one position a row that sees all is one call."""
        cache = past_key_values
        alone = cache is not None and cache.beams == 1 and mask is None and x.shape[1] == 1
        if self._panels is None or cache is None or not alone:
            return SelfBlock.forward(self, x, mask, causal, ragged, cache)
        return self._panels.step(x, *cache.room(x, self.attention.layer))


class PackedCrossBlock(_Packed, CrossBlock):
    """A `CrossBlock` of packed layers."""

    def forward(
        self, x: torch.Tensor, images: torch.Tensor | KeysValues, ragged: Ragged | None = None
    ) -> torch.Tensor:
        """As `CrossBlock.forward`; a step of one position a row is one call."""
        known = isinstance(images, tuple) and ragged is None and x.shape[1] == 1
        if self._panels is None or isinstance(images, torch.Tensor) or not known:
            return CrossBlock.forward(self, x, images, ragged)
        return self._panels.step(x, *images, length=images[0].shape[2])


def pack(model: CoCaForConditionalGeneration) -> CoCaForConditionalGeneration:
    """Make a model generate faster on a CPU, for good: it can no longer be trained or saved.

    Logits stay equal up to the rounding of sums in another order.

    Args:
        model: on a CPU, in fp32 or bf16; changed in place.

    Returns:
        The same model; in bf16 as it was where oneDNN does not multiply so: without AVX-512.

    Raises:
        UnpromptError: the model is not on a CPU, or PyTorch was built without oneDNN.
    """
    if model.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        raise UnpromptError("packing needs a model on a CPU and a PyTorch built with oneDNN")
    if model.dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return model.eval()
    panelled = set(_for_panels(model)) if panels.is_available() else set()
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, (PanelLinear if child in panelled else PackedLinear)(child))
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, SelfBlock):
                setattr(module, name, PackedSelfBlock(child))
            elif isinstance(child, CrossBlock):
                setattr(module, name, PackedCrossBlock(child))
    return model.eval()


def _for_panels(model: nn.Module) -> Iterator[nn.Linear]:
    """Layers to be put in panels: of a block all or none, so that they can be one call."""
    others: set[nn.Linear] = set()
    for block in model.modules():
        if isinstance(block, Block):
            layers = _layers(block)
            if not (_has_gelu(block) and all(map(panels.fits, layers))):
                others.update(layers)
    for layer in model.modules():
        if isinstance(layer, nn.Linear) and layer not in others and panels.fits(layer):
            yield layer

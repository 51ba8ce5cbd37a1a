"""Products by weights in panels, against PyTorch's in twice the precision."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from unprompt.models.coca import panels, team

pytestmark = pytest.mark.skipif(
    not panels.is_available(), reason="needs AVX-512, numba and a PyTorch with GCC's OpenMP"
)


@pytest.mark.parametrize("rows", [1, 3, 4, 7, 8, 13])
@pytest.mark.parametrize("shape", [(50, 64), (512, 96)])
def test_a_linear_layer(rows, shape):
    torch.manual_seed(rows)
    layer, x = nn.Linear(*shape), torch.randn(2, rows, shape[0])[:, :, : shape[0]]
    ours = panels.PanelLinear(layer)(x)
    expected = layer.double()(x.double())
    torch.testing.assert_close(ours.double(), expected, atol=3e-6, rtol=1e-6)


def test_what_compiled_code_must_not_read():
    layer = panels.PanelLinear(nn.Linear(50, 64))
    for x in (torch.zeros(3, 50).double(), torch.zeros(3, 49), torch.zeros(3, 50, device="meta")):
        with pytest.raises(TypeError, match=r"takes float32 of \(\.\.\., 50\) on a CPU, not"):
            layer(x)
    # Copies would hold addresses of the memory of the first.
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="before `pack`"):
            copied(layer)


def test_which_layers_fit():
    assert panels.fits(nn.Linear(5, 64))
    assert not panels.fits(nn.Linear(64, 33))
    assert not panels.fits(nn.Linear(5, 64).bfloat16())


@pytest.mark.parametrize("threads", [1, 3])
@torch.no_grad()
def test_a_block(threads):
    """Whole steps, with keys and values appended, by any number of threads."""
    torch.manual_seed(threads)
    torch.set_num_threads(threads)  # the fixture of this folder puts it back
    width, heads, groups, capacity, length = 64, 4, 3, 9, 6
    norms = nn.LayerNorm(width), nn.LayerNorm(width)
    mlp = nn.Linear(width, 128), nn.Linear(128, width)
    layers = nn.Linear(width, 3 * width), nn.Linear(width, width), *mlp
    for norm in norms:
        nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    block = panels.panelled(norms, [panels.PanelLinear(layer) for layer in layers])
    assert block is not None
    for module in (*norms, *layers):
        module.double()
    x = 3 * torch.randn(groups, 1, width)
    keys, values = torch.randn(2, groups, heads, capacity, width // heads)
    query, key, value = layers[0](norms[0](x.double())).view(groups, 3, heads, 1, -1).unbind(1)
    seen = [
        torch.cat([kept[:, :, : length - 1].double(), new], dim=2)
        for kept, new in ((keys, key), (values, value))
    ]
    attended = F.scaled_dot_product_attention(query, *seen).reshape(groups, 1, width)
    held = x.double() + layers[1](attended)
    expected = held + mlp[1](F.gelu(mlp[0](norms[1](held))))
    untouched = keys[:, :, length:].clone()
    ours = block.step(x, keys, values, length)
    torch.testing.assert_close(ours.double(), expected, atol=5e-6, rtol=2e-6)
    torch.testing.assert_close(keys[:, :, :length].double(), seen[0], atol=3e-6, rtol=1e-6)
    assert torch.equal(keys[:, :, length:], untouched)
    parts = block.project(x), block.finish(x, attended.float())
    projected = layers[0](norms[0](x.double()))
    torch.testing.assert_close(parts[0].double(), projected, atol=3e-6, rtol=1e-6)
    torch.testing.assert_close(parts[1].double(), expected, atol=5e-6, rtol=2e-6)


def test_a_machine_without_the_library(monkeypatch):
    monkeypatch.setattr(team, "is_available", lambda: False)
    assert not panels.is_available()

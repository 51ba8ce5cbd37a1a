"""A fingerprint of models and settings, so that a cache never returns another model's results."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import nn


def fingerprint(*parts: Any) -> str:
    """A hash of all parts, 32 hexadecimal digits.

    Args:
        parts: strings, bytes, modules (their weights and buffers are hashed) or JSON values.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, nn.Module):
            for name, value in sorted(part.state_dict().items()):
                digest.update(f"{name} {value.dtype} {tuple(value.shape)}\0".encode())
                digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        else:
            text = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode()
            digest.update(f"{len(text)}\0".encode() + text)
    return digest.hexdigest()

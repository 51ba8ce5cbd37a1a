"""The device that a torch model runs on."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from unprompt.errors import UnpromptError

if TYPE_CHECKING:
    from torch import nn

    Model = TypeVar("Model", bound=nn.Module)


def choose_device(device: str | None = None) -> str:
    """The device that is named, else ``cuda`` where there is one, else ``cpu``."""
    import torch

    return device or ("cuda" if torch.cuda.is_available() else "cpu")


def placed(model: Model, device: str) -> Model:
    """Move a model to a device and switch it to evaluation mode.

    Args:
        model: changed in place.
        device: as torch names it.

    Raises:
        UnpromptError: this computer has no such device, or the model does not fit on it.
    """
    try:
        return model.to(device).eval()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UnpromptError(f"device '{device}' cannot be used: {reason}") from error

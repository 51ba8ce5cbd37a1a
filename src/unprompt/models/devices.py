"""Where a model runs."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from unprompt.errors import UnpromptError

Model = TypeVar("Model", bound=nn.Module)


def placed(model: Model, device: str) -> Model:
    """A model moved to a device, in evaluation mode.

    Args:
        model: changed in place.
        device: as torch names it.

    Raises:
        UnpromptError: there is no such device here, or the model does not fit.
    """
    try:
        return model.to(device).eval()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UnpromptError(f"device '{device}' cannot be used: {reason}") from error

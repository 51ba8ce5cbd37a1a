"""The device that a torch model runs on, and torch's threads on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from unprompt.errors import UnpromptError

if TYPE_CHECKING:
    from torch import nn

    Model = TypeVar("Model", bound=nn.Module)


def choose_device(device: str | None = None) -> str:
    """The device to use: the named one, else ``cuda`` if there is a GPU, else ``cpu``.

    Raises:
        UnpromptError: torch cannot use the named device.
    """
    import torch

    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise _unusable(device, error) from error
    return device


@contextmanager
def one_core_a_thread() -> Iterator[Callable[[], None]]:
    """Let torch use one core in each thread, for work that is split among threads.

    Torch's own threads wait for each other at every operation; if other programs use the cores,
    this takes several times longer. At the end, torch's number of threads is restored.

    Yields:
        A function that each thread must call first.
    """
    import torch

    before = torch.get_num_threads()
    try:
        yield partial(torch.set_num_threads, 1)
    finally:
        torch.set_num_threads(before)


def placed(model: Model, device: str) -> Model:
    """Move a model to a device and switch it to evaluation mode.

    Args:
        model: changed in place.
        device: a torch device name, such as ``cuda:1``.

    Raises:
        UnpromptError: the computer has no such device, or the model does not fit on it.
    """
    try:
        return model.to(device).eval()
    except (RuntimeError, AssertionError) as error:
        raise _unusable(device, error) from error


def _unusable(device: str, error: Exception) -> UnpromptError:
    return UnpromptError(f"device '{device}' cannot be used: {str(error).splitlines()[0]}")

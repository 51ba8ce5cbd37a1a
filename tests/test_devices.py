"""Choosing a device, moving a model to it, and torch's threads."""

import pytest
import torch
from torch import nn

from unprompt.devices import choose_device, one_core_a_thread, placed
from unprompt.errors import UnpromptError
from unprompt.parallel import in_order


def test_a_placed_model_is_ready_to_answer():
    model = nn.Linear(2, 2)
    assert placed(model, "cpu") is model
    assert not model.training


@pytest.mark.parametrize("device", ["toaster", "cuda:99"])
@pytest.mark.parametrize("use", [choose_device, lambda name: placed(nn.Linear(2, 2), name)])
def test_a_device_that_does_not_exist_is_refused(use, device):
    with pytest.raises(UnpromptError, match=f"device '{device}' cannot be used"):
        use(device)


def test_the_default_device_is_a_gpu_if_there_is_one(monkeypatch):
    assert choose_device("cpu") == "cpu"
    for available, expected in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        assert choose_device() == expected


def test_threads_compute_on_one_core_each_and_leave_torch_as_it_was():
    def threads(_: int) -> int:
        return torch.get_num_threads()

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with one_core_a_thread() as setup:
            assert list(in_order(threads, range(5), 2, setup)) == [1] * 5
        assert torch.get_num_threads() == 3
        assert list(in_order(threads, range(2), 2)) == [3, 3]  # threads that start later
    finally:
        torch.set_num_threads(before)

"""Models on devices that are there, and on such that are not."""

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
def test_a_device_that_is_not_there(device):
    with pytest.raises(UnpromptError, match=f"device '{device}' cannot be used"):
        placed(nn.Linear(2, 2), device)


def test_the_device_is_what_is_named_or_what_there_is(monkeypatch):
    assert choose_device("cpu") == "cpu"
    for there, expected in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert choose_device() == expected
        assert choose_device("cuda:1") == "cuda:1"


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

"""Models on devices that are there, and on such that are not."""

import pytest
from torch import nn

from unprompt.devices import placed
from unprompt.errors import UnpromptError


def test_a_placed_model_is_ready_to_answer():
    model = nn.Linear(2, 2)
    assert placed(model, "cpu") is model
    assert not model.training


@pytest.mark.parametrize("device", ["toaster", "cuda:99"])
def test_a_device_that_is_not_there(device):
    with pytest.raises(UnpromptError, match=f"device '{device}' cannot be used"):
        placed(nn.Linear(2, 2), device)

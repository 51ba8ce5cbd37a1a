"""Options that are out of range are refused by name."""

from __future__ import annotations

import pytest

from unprompt.errors import UnpromptError
from unprompt.predicting.options import OptionFields, PredictOptions


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"route": "guess"}, "route 'guess': must be one of auto, read, embed"),
        ({"top_k": 0}, "top_k=0: must be at least 1"),
        ({"knn": -1}, "knn=-1: must be at least 0"),
        ({"num_beams": 0}, "num_beams=0: must be at least 1"),
        ({"batch_size": 0}, "batch_size=0: must be at least 1"),
        ({"top_p": 0.0}, "top_p=0.0: must be above 0"),
        ({"top_p": 1.5}, "top_p=1.5: must be above 0 and at most 1"),
    ],
)
def test_a_value_out_of_range_is_refused(fields: OptionFields, message: str) -> None:
    with pytest.raises(UnpromptError, match=message):
        PredictOptions(**fields)


def test_the_least_values_are_taken() -> None:
    PredictOptions(top_k=1, knn=0, num_beams=1, batch_size=1, top_p=1.0)


def test_every_option_can_be_a_keyword() -> None:
    options = PredictOptions.__dataclass_fields__
    assert {name: field.type for name, field in options.items()} == {
        name: hint.__forward_arg__ for name, hint in OptionFields.__annotations__.items()
    }

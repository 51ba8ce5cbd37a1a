from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from unprompt.models.calibration import Calibration

CURVE = Calibration((0.1, 0.2, 0.4), (0.3, 0.3, 0.7), 90, 0.07)


def test_between_knots_it_is_straight_and_beyond_them_level():
    assert CURVE(0.3) == pytest.approx(0.5)
    assert [CURVE(sign) for sign in (-5, 0.15, 9)] == pytest.approx([0.3, 0.3, 0.7])
    assert str(CURVE) == "0.300 to 0.700, ± 0.070 (on 90 held-out pairs)"
    assert Calibration((0.0,), (0.4,), 3, 0.1)(7) == 0.4


def test_it_goes_through_json():
    assert Calibration(**json.loads(json.dumps(asdict(CURVE)))) == CURVE


@pytest.mark.parametrize(
    "knots", [((), ()), ((0.1,), (0.1, 0.2)), ((0.2, 0.1), (0.1, 0.2)), ((0.1, 0.2), (0.3, 0.2))]
)
def test_what_is_no_rising_curve_is_refused(knots):
    with pytest.raises(ValueError, match="calibration"):
        Calibration(*knots, 10, 0.1)

"""Frozen dataclasses filled at once behave as those that `dataclasses` makes."""

from __future__ import annotations

import inspect
import pickle
from dataclasses import FrozenInstanceError, asdict, dataclass, field, replace

import pytest

from unprompt.reading.frozen import changed, filled_at_once


@dataclass(frozen=True)
class Plain:
    first: int
    second: str = "two"
    third: dict[str, int] = field(default_factory=dict)


@filled_at_once
@dataclass(frozen=True)
class Filled:
    first: int
    second: str = "two"
    third: dict[str, int] = field(default_factory=dict)


@pytest.mark.parametrize("make", [Plain, Filled])
def test_they_are_made_as_any_other(make: type[Plain] | type[Filled]) -> None:
    item = make(1, third={"a": 3})
    assert asdict(item) == {"first": 1, "second": "two", "third": {"a": 3}}
    assert make(1, third={"a": 3}) == item
    assert make(1).third is not make(1).third
    assert list(inspect.signature(make).parameters) == ["first", "second", "third"]
    with pytest.raises(TypeError, match="first"):
        make()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="fourth"):
        make(1, fourth=4)  # type: ignore[call-arg]


def test_they_are_frozen_and_travel() -> None:
    item = Filled(1)
    with pytest.raises(FrozenInstanceError):
        item.first = 2  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(item)) == item
    assert repr(item) == "Filled(first=1, second='two', third={})"
    assert replace(item, second="x") == changed(item, second="x") == Filled(1, "x")
    assert item.second == "two"

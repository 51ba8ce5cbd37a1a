"""Frozen dataclasses that are made in one step.

The constructor that `dataclasses` writes for a frozen class sets the fields one by one through
`object.__setattr__`. Every file that is read makes some six instances with fifty fields in all,
and that was a tenth of the time of a small file.
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any, TypeVar

Class = TypeVar("Class", bound=type)
Item = TypeVar("Item")

_set = object.__setattr__


def filled_at_once(cls: Class) -> Class:
    """Give a frozen dataclass a constructor that fills the instance's ``__dict__`` at once.

    Signature and result are those of the constructor that it replaces. The class must have
    neither slots nor a ``__post_init__``.
    """
    names: dict[str, Any] = {"_set": _set}
    parameters, values = [], []
    for item in fields(cls):
        parameter = value = item.name
        if item.default is not MISSING:
            names[f"_{item.name}"] = item.default
            parameter += f"=_{item.name}"
        elif item.default_factory is not MISSING:
            names[f"_{item.name}"] = item.default_factory
            parameter += "=_set"  # stands for nothing given, as no field can hold it
            value = f"_{item.name}() if {item.name} is _set else {item.name}"
        parameters.append(parameter)
        values.append(f"{item.name!r}: {value}")
    filled = f"_set(self, '__dict__', {{{', '.join(values)}}})"
    source = f"def __init__(self, {', '.join(parameters)}): {filled}"
    # As `dataclasses` itself does: names come from a class body, and nothing else is in the text.
    exec(source, names)  # noqa: S102
    names["__init__"].__annotations__ = cls.__dict__["__init__"].__annotations__
    setattr(cls, "__init__", names["__init__"])  # noqa: B010 - mypy takes it for an instance's
    return cls


def changed(item: Item, **changes: Any) -> Item:
    """A copy with other values in some fields: `dataclasses.replace` in one step."""
    copy: Item = object.__new__(type(item))
    _set(copy, "__dict__", {**item.__dict__, **changes})
    return copy

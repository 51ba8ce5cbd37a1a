"""PyTorch's threads, lent to compiled code of ours.

PyTorch's wheels for Linux bring GCC's OpenMP library. Code that runs in its parallel regions shares
PyTorch's threads; with threads of its own it would wait for cores on which PyTorch's still spin.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import torch


@cache
def _openmp() -> ctypes.CDLL | None:
    """The library that PyTorch itself uses, or None where it uses another."""
    found = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    return ctypes.CDLL(str(found[0])) if found else None


def is_available() -> bool:
    """Whether PyTorch's threads can be had."""
    return _openmp() is not None


def address_of(name: str) -> int:
    """The address of a function of the library, for code that a team runs."""
    return ctypes.cast(getattr(_openmp(), name), ctypes.c_void_p).value or 0


@cache
def _fork() -> ctypes._FuncPointer:
    prototype = ctypes.CFUNCTYPE(
        None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint
    )
    return prototype(address_of("GOMP_parallel"))


def run(function: int | None, *arguments: int) -> None:
    """Call a function in each of PyTorch's threads, and wait for all.

    Args:
        function: its address; it takes a pointer to the arguments.
        arguments: 64-bit integers, such as addresses.
    """
    given = (ctypes.c_int64 * len(arguments))(*arguments)
    _fork()(function, given, torch.get_num_threads(), 0)

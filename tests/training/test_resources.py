from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

FAULTS = """
import resource
import torch
from unprompt.training.resources import freed_memory_kept
with freed_memory_kept():
    for _ in range(4):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(100_000_000, dtype=torch.uint8)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
"""Prints how many pages the system gives for each of four tensors."""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc alone")
@pytest.mark.skipif(torch.cuda.is_available(), reason="of training on a CPU alone")
def test_memory_that_a_step_frees_serves_the_next():
    # In a process of its own: an allocation that failed, as one does in another test, moves the
    # thread to an arena that keeps no blocks of this size.
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True)
    first, *_, last = map(int, done.stdout.split())
    assert last < first / 10

from __future__ import annotations

import platform
import resource

import pytest
import torch

from unprompt.training.machine import freed_memory_kept


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc alone")
@pytest.mark.skipif(torch.cuda.is_available(), reason="of training on a CPU alone")
def test_memory_that_a_step_frees_serves_the_next():
    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(100_000_000, dtype=torch.uint8)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    with freed_memory_kept():
        found = [faults() for _ in range(4)]
    assert found[-1] < 1000  # of the 24,414 pages that it has

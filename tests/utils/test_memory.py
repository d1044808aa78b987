"""What the process does with memory."""

import platform
import resource

import pytest
import torch

from utils.memory import keep_freed_memory

NUMBERS = 5_000_000


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is a setting of glibc")
def test_freed_memory_is_kept_for_the_next_tensors():
    keep_freed_memory()
    torch.ones(NUMBERS)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(100):
        torch.ones(NUMBERS)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    # A tensor can lie in another place than the one before it, but places are few.
    assert faults < 20 * 4 * NUMBERS / resource.getpagesize()

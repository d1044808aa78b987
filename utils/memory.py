"""The memory that this process needs at most, in bytes."""

import ctypes
import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

PROCESS = Path("/proc/self")  # on Linux
# Parameters of glibc's mallopt.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
MOST_KEPT = 2**29  # bytes


def peak_memory(device: torch.device) -> int:
    """Return the peak of this process since its start, or since `reset_peak`: of a GPU, or RAM."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError, StopIteration):
        lines = (PROCESS / "status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def reset_peak(device: torch.device) -> None:
    """Let `peak_memory` start from what is in use now, where the system can do this."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc keeps freed memory
    with suppress(OSError):
        (PROCESS / "clear_refs").write_text("5")


def keep_freed_memory() -> None:
    """Let the process keep freed memory for the next tensors, where the system is Linux with glibc.

    Otherwise the system clears the same pages in every training step, a twentieth of its time.
    """
    with suppress(OSError, AttributeError, TypeError):
        library = ctypes.CDLL(None)
        library.mallopt(M_TRIM_THRESHOLD, MOST_KEPT)
        library.mallopt(M_MMAP_THRESHOLD, 2**25)  # the highest that is allowed

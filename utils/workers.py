"""Worker processes that read images.

They send batches through shared memory (/dev/shm, 64 MB in a container of docker) and hold a few
open files each.
"""

import errno
import multiprocessing
import resource
import shutil
import signal
import sys
import traceback
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from utils.errors import FieldError, UserError
from utils.signals import children_leave_signals, obey_parent

SHARED_MEMORY = Path("/dev/shm")
PREFETCH = 2  # batches that each worker prepares: torch's default
FILES_OF_WORKER = 8  # open files of a worker and its prepared batches
SPARE_FILES = 24  # open files for everything else
KILL_SECONDS = 10.0  # in which a worker that is killed ends
# From Python 3.14 on the default on Linux is a server that starts processes. They would not inherit
# which signals are blocked, and each would load torch again.
METHOD = "fork" if sys.platform == "linux" else None  # elsewhere the default of Python

# Parts of torch's messages when a worker was killed, and when they have no room.
KILLED = "DataLoader worker (pid"
FULL = (errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)
NO_ROOM = (
    "shared memory", "/torch_", "Too many open files", "ancdata", "No space left", "new thread"
)  # fmt: skip


def raise_file_limit() -> None:
    """Let this process and its children open as many files as the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # macOS reports no limit, and then refuses this value
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def check_workers(num_workers: int, batch_bytes: int) -> None:
    """Refuse more workers than shared memory and open files allow.

    Raises:
        FieldError: naming what is available and what is needed.
    """
    if not num_workers:
        return
    try:
        multiprocessing.get_context("fork").Lock()
    except OSError as error:  # their queues have locks
        reason = f"{SHARED_MEMORY} cannot be used ({error.strerror}): take none (`num_workers` 0)"
        raise FieldError("num_workers", num_workers, reason) from error
    # All prepared batches, and the one in use.
    needed = (PREFETCH * num_workers + 1) * batch_bytes
    free = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else needed
    if free < needed:
        raise FieldError(
            "num_workers",
            num_workers,
            f"their batches need {needed / 1e6:.1f} MB of shared memory and {SHARED_MEMORY} has "
            f"{free / 1e6:.1f} MB free: take fewer or none (`num_workers` 0), smaller batches, or "
            "give the container more (shm-size of docker)",
        )
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = FILES_OF_WORKER * num_workers + SPARE_FILES
    if limit != resource.RLIM_INFINITY and files > limit:
        raise FieldError(
            "num_workers",
            num_workers,
            f"they need about {files} open files and a process may have {limit}: take fewer, or "
            "raise the limit (ulimit -n)",
        )


def batches_of(dataset: Dataset, num_workers: int, **options: Any) -> Iterator[Any]:
    """Read a dataset in batches, in pinned memory if the program uses CUDA.

    The workers ignore signals, which this process handles.

    Args:
        dataset: what the workers read.
        num_workers: number of workers; with 0 this process reads.
        **options: passed to torch's DataLoader: what makes a batch.

    Returns:
        The batches. Between two of them it raises a UserError if a worker was killed, or shared
        memory or open files run out.
    """
    options |= {"num_workers": num_workers, "pin_memory": torch.cuda.is_initialized()}
    if num_workers:
        return _batches_of_workers(dataset, num_workers, options)
    return iter(DataLoader(dataset, **options))


def _batches_of_workers(
    dataset: Dataset, num_workers: int, options: Mapping[str, Any]
) -> Iterator[Any]:
    """Yield what `batches_of` returns, read by workers."""
    others = set(multiprocessing.active_children())
    with _errors_of_workers(num_workers, others), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of more workers than cores
        loader = DataLoader(dataset, multiprocessing_context=METHOD, **options)
        batches = _start(loader, others)
    while True:
        with _errors_of_workers(num_workers, others):
            try:
                batch = next(batches)
            except StopIteration:
                return
        yield batch


def _start(loader: DataLoader, others: Collection[BaseProcess]) -> Iterator[Any]:
    """Start the workers of a loader; `others` are children that are none of them.

    When a worker dies, torch would raise an error at any point of this process. This handler is
    removed, because torch also checks its workers while it waits for a batch.
    """
    handler = signal.getsignal(signal.SIGCHLD)
    loader.worker_init_fn = _start_worker
    try:
        with children_leave_signals():
            return iter(loader)
    except Exception as error:
        _kill_workers(others)
        # torch fails once more, with a traceback on stderr, as it frees what it has begun.
        shown, sys.unraisablehook = sys.unraisablehook, lambda _: None
        traceback.clear_frames(error.__traceback__)
        sys.unraisablehook = shown
        raise
    finally:
        if signal.getsignal(signal.SIGCHLD) is not handler:
            signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)


def _start_worker(number: int) -> None:
    """Prepare a worker; called in it with its number."""
    obey_parent()


@contextmanager
def _errors_of_workers(num_workers: int, others: Collection[BaseProcess]) -> Iterator[None]:
    """Turn torch's errors about its workers into a UserError; other errors pass."""
    try:
        yield
    except (OSError, EOFError, RuntimeError, AttributeError) as error:
        # If torch fails early, it raises an AttributeError during its cleanup; the reason is the
        # exception behind it.
        cause = error.__context__ if isinstance(error, AttributeError) else error
        text = "".join(str(cause).strip().splitlines()[-1:])  # before it, a worker's traceback
        number = cause.errno if isinstance(cause, OSError) else None
        if KILLED in text or isinstance(cause, ConnectionError | EOFError):
            _kill_workers(others)
            raise UserError(
                "a process that reads images was killed, most often because memory ran out: go on "
                f"with fewer `num_workers` than {num_workers}, or with none"
            ) from error
        if number in FULL or any(part in text for part in NO_ROOM):
            _kill_workers(others)
            raise FieldError(
                "num_workers",
                num_workers,
                f"no room for the processes that read images, or for their batches ({text[:160]}): "
                "take fewer or none, or raise the limits of shared memory (/dev/shm), open files "
                "(ulimit -n) and processes (ulimit -u)",
            ) from error
        raise


def _kill_workers(others: Collection[BaseProcess]) -> None:
    """Kill all children but these: they may wait forever, for a lock of one that died or for work.

    Meanwhile no handler runs: that of torch would raise an error at any point of this process.
    """
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for worker in set(multiprocessing.active_children()).difference(others):
        worker.kill()
        worker.join(KILL_SECONDS)
    signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)

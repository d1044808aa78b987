"""Files that are either complete or not there, and locks."""

import errno
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from utils.errors import UserError

log = logging.getLogger(__name__)

# The error numbers of file systems that cannot flush a folder.
NO_FOLDER_SYNC = (errno.EINVAL, errno.EBADF, errno.ENOTSUP)


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a file beside `path` that takes its place when the block ends without an error.

    The data is on the disk before the rename, and the rename is on the disk before the return. So
    a crash at any moment leaves either the previous file or the new one.

    Args:
        path: the file; missing folders above it are made.

    Raises:
        UserError: if the file cannot be written (read-only, disk full, quota).
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink()
        if not isinstance(error, OSError):
            raise
        reason = error.strerror or error
        raise UserError(
            f"cannot write {path}: {reason}; what was there before is intact"
        ) from error


def remove_leftovers(folder: Path) -> None:
    """Delete the partial files of killed processes in a folder.

    The partial file of another process that runs on this machine stays.
    """
    for path in folder.glob(".*.partial"):
        writer = path.name.split(".")[-2]
        if not (writer.isdecimal() and _is_another_process(int(writer))):
            path.unlink(missing_ok=True)


def reserve_space(path: Path) -> None:
    """Give a sparse file all of its disk blocks.

    The system kills a program (SIGBUS) that writes to a mapped file on a full disk. It cannot
    happen to a file whose space is reserved.

    Raises:
        OSError: if the space is not there.
    """
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def write_text_atomic(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically; errors as `atomic_write`."""
    with atomic_write(path) as file:
        file.write(text.encode())


def write_json_atomic(path: Path, value: Any) -> None:
    """Write a JSON file, indented and with a final newline; errors as `atomic_write`."""
    write_text_atomic(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; an empty one if there is no file.

    Raises:
        UserError: if the file is damaged.
    """
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text())
        if not isinstance(value, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); delete it or restore it") from error
    return value


def file_digest(path: Path) -> str:
    """Compute the SHA-256 of a file's contents, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def make_folder(path: Path) -> Path:
    """Create a folder with its parents and check that it can be written to.

    Raises:
        UserError: if it cannot be created or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise PermissionError(None, "no permission to write")
    except OSError as error:
        raise UserError(f"cannot write to the folder {path}: {error.strerror or error}") from error
    return path


@contextmanager
def exclusive_lock(path: Path, refusal: str) -> Iterator[None]:
    """Hold a lock file while the block runs.

    The kernel releases the lock when its owner ends or is killed. The file itself stays. On a file
    system without locks, as on some network disks, a warning is logged and nothing is locked.

    Args:
        path: the lock file; its folder must be there.
        refusal: the message where the lock is taken.

    Raises:
        UserError: with the text `refusal` if another process, or another block of this one, holds
            the lock; or if the file cannot be written.
    """
    try:
        path.open("a").close()  # the lock itself would make missing folders
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    # A soft lock is a file that must be deleted: it would outlive a process that is killed.
    lock = FileLock(path, timeout=0, fallback_to_soft=False, preserve_lock_file=True)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(refusal) from error
    except OSError as error:
        log.warning("%s cannot be locked (%s): start no second job there", path, error.strerror)
    try:
        yield
    finally:
        lock.release()


def _is_another_process(number: int) -> bool:
    """Whether a process of this number runs on this machine and is not this one."""
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it runs, for another user
        return True
    return number != os.getpid()


def _sync_folder(folder: Path) -> None:
    """Flush the entries of a folder: a power cut could undo a rename without it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)

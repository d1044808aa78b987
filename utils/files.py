"""Atomic file writes, and locks."""

import csv
import errno
import glob
import hashlib
import io
import json
import logging
import os
import re
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from filelock import FileLock, Timeout

from utils.errors import UserError, failures_of
from utils.links import FOREIGN_LINK, check_replaceable, follow, open_own

T = TypeVar("T")

log = logging.getLogger(__name__)

# The endings of the names of unfinished files and folders; they name the writer. Older versions
# have only the number of the process.
UNFINISHED = re.compile(r"\..+\.(?P<writer>(?P<machine>[\w-]+-)?(?P<process>\d+))\.partial")
FORGOTTEN_SECONDS = 24 * 60 * 60  # another machine's file without a change for this time is deleted
STARTED = time.time()
WAIT_SECONDS = 0.2  # between two looks at a lock that another process holds

# The error numbers of file systems that cannot flush a folder.
NO_FOLDER_SYNC = (errno.EINVAL, errno.EBADF, errno.ENOTSUP)


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a file beside `path` that takes its place when the block ends without an error.

    The data is on the disk before the rename, and the rename is on the disk before the return. So
    a crash at any moment leaves either the previous file or the new one.

    Args:
        path: the file, or a link to it as `follow` takes it; missing folders above it are made.

    Raises:
        UserError: if the file cannot be written (read-only, disk full, quota).
    """
    target = follow(path)
    # The random part makes the name impossible to guess.
    ending = f"{secrets.token_hex(4)}.{_machine()}-{os.getpid()}.partial"
    partial = target.with_name(f".{target.name}.{ending}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        check_replaceable(target)
        _clean_once(target.parent)
        with open_own(partial, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink()
        if not isinstance(error, OSError):
            raise
        reason = error.strerror or error
        raise UserError(
            f"cannot write {path}: {reason}; what was there before is intact"
        ) from error
    _sync_folder(target)


def replace_file(made: Path, path: Path) -> None:
    """Rename a file to its final name; if that is a link, as in `atomic_write`, copy the file.

    Raises:
        OSError or UserError: if it cannot be moved.
    """
    if follow(path) == path:
        made.replace(path)
        return
    with atomic_write(path) as file, made.open("rb") as source:
        shutil.copyfileobj(source, file)
    made.unlink()


@contextmanager
def temporary_folder(parent: Path, name: str) -> Iterator[Path]:
    """Make a folder that is deleted at the end of the block, or after a kill at the next start.

    Args:
        parent: folder to make it in; it must exist.
        name: name of all folders with the same purpose.
    """
    remove_leftovers(parent, glob.escape(name))
    ending = f".{_machine()}-{os.getpid()}.partial"
    with tempfile.TemporaryDirectory(prefix=f".{name}.", suffix=ending, dir=parent) as folder:
        yield Path(folder)


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Delete the unfinished files and folders of killed processes in a folder.

    Files of a running process on this machine stay. Whether a process on another machine still runs
    is unknown: its files are deleted if they have not changed for a day.

    Args:
        folder: the folder.
        name: pattern of how the names start; "*" takes all.
    """
    for path in folder.glob(f".{name}.*.partial"):
        found = UNFINISHED.fullmatch(path.name)
        with suppress(OSError):  # it is already deleted, or belongs to another user
            if found is None or not _is_left_over(path, found):
                continue
            if path.is_dir():
                shutil.rmtree(path)  # it refuses a link
            else:
                path.unlink()


def reserve_space(path: Path) -> None:
    """Give a sparse file all of its disk blocks.

    The system kills a program (SIGBUS) that writes to a mapped file on a full disk. This cannot
    happen if the space is reserved.

    Raises:
        OSError: if there is too little space.
    """
    if hasattr(os, "posix_fallocate"):
        with open_own(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def write_text_atomic(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically; errors as `atomic_write`."""
    with atomic_write(path) as file:
        file.write(text.encode())


def write_json_atomic(path: Path, value: Any) -> None:
    """Write a JSON file, indented and with a final newline; errors as `atomic_write`."""
    write_text_atomic(path, json.dumps(value, indent=2) + "\n")


def write_csv_atomic(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    """Write a CSV file, the names of its columns as its first row; errors as `atomic_write`."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text_atomic(path, text.getvalue())


def file_digest(path: Path) -> str:
    """Compute the SHA-256 of a file's contents, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_with_digest(path: Path, read: Callable[[Path], T]) -> tuple[T, str]:
    """Read a file, and compute the SHA-256 of the same bytes.

    Returns:
        What `read` returned, and the digest as in `file_digest`.

    Raises:
        UserError: if the file was changed or replaced meanwhile.
    """
    before = _version(path)
    value, digest = read(path), file_digest(path)
    if _version(path) != before:
        raise UserError(f"{path} was changed or replaced while it was read; start again")
    return value, digest


def make_folder(path: Path) -> Path:
    """Create a folder with its parents and check that it can be written to.

    Raises:
        UserError: if it cannot be created or written.
    """
    with failures_of(f"cannot write to the folder {path}"):
        path.mkdir(parents=True, exist_ok=True)
        if follow(path).is_symlink():
            raise PermissionError(None, FOREIGN_LINK)
        if not os.access(path, os.W_OK):
            raise PermissionError(None, "no permission to write")
    return path


def check_place(path: Path) -> None:
    """Refuse a file or folder to write that is to be in a folder that cannot be made.

    Raises:
        UserError: naming the file that is there in place of a folder.
    """
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir():
        raise UserError(f"cannot write {path}: {above} is a file, not a folder")


@contextmanager
def exclusive_lock(path: Path, busy: str, waits: bool = False) -> Iterator[None]:
    """Hold a lock file while the block runs.

    The kernel releases the lock when its owner ends or is killed. The file itself stays. On a file
    system without locks, as on some network disks, a warning is logged and nothing is locked.

    Args:
        path: the lock file.
        busy: the message if another process, or another block of this process, holds the lock.
        waits: whether to log `busy` then, and wait until the lock is free.

    Raises:
        UserError: with the text `busy` if the lock is held; or if the file cannot be written.
    """
    with failures_of(f"cannot write {path}"):
        open_own(path, "ab").close()  # the lock itself would make missing folders
    # Not a soft lock, a file that must be deleted: it would stay after a kill.
    lock = FileLock(follow(path), timeout=0, fallback_to_soft=False)
    try:
        try:
            lock.acquire()
        except Timeout as error:
            if not waits:
                raise UserError(busy) from error
            log.info("%s", busy)
            lock.acquire(timeout=-1, poll_interval=WAIT_SECONDS)
    except OSError as error:
        log.warning("%s cannot be locked (%s): start no second job there", path, error.strerror)
    try:
        yield
    finally:
        lock.release()


@cache
def _machine() -> str:
    """Name this machine, or this container if it numbers its processes itself."""
    host = re.sub(r"[^A-Za-z0-9]+", "-", socket.gethostname())[:40]
    try:
        space = re.sub(r"\D", "", Path("/proc/self/ns/pid").readlink().name)
    except OSError:  # not Linux
        space = "0"
    return f"{host}-{space}"


@cache
def _clean_once(folder: Path) -> None:
    """Delete the files of killed processes at the first write of this process to a folder."""
    remove_leftovers(folder)


def _is_left_over(path: Path, name: re.Match[str]) -> bool:
    """Whether an unfinished file was left by a process that is gone.

    `name` is the match of UNFINISHED in its name.
    """
    changed, number = path.stat().st_mtime, int(name["process"])
    if name["machine"] != f"{_machine()}-":
        return time.time() - changed > FORGOTTEN_SECONDS
    if number == os.getpid():  # the file is of an earlier process with the same number
        return changed < STARTED
    return not _is_running(number)


def _is_running(number: int) -> bool:
    """Whether a process with this number runs on this machine."""
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it runs as another user
        pass
    return True


def _version(path: Path) -> tuple[int, ...] | None:
    """Return numbers that differ after every change of a file; None if the file is missing."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _sync_folder(path: Path) -> None:
    """Flush the folder of a new file: without this, a power cut could undo a rename.

    Raises:
        UserError: if it fails although the file system supports it.
    """
    try:
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise UserError(
                f"the new {path} is in place, but its folder cannot be flushed to the disk "
                f"({error.strerror or error}): whether a power cut could undo it is not known"
            ) from error

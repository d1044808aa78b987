"""Reads files of other people: only regular ones below their folder; any fault is one line."""

import csv
import errno
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from utils.errors import UserError, one_line

STRANGERS = {
    b"<!doctype svg": "an SVG drawing; convert it to PNG or JPEG",
    b"<!doctype": "a web page",
    b"<html": "a web page",
    b"version https://git-lfs": "a pointer of Git LFS; git lfs pull fetches the file",
}
"""What is often found instead of data, by its first bytes in lower case."""


class FileError(UserError):
    """A file that cannot be read; the message names it.

    A DataLoader raises the error of a worker again, with the traceback as its text. Only the last
    line of this text, the original message, is for the user.
    """

    def __init__(self, message: str) -> None:
        last = message.strip().splitlines()[-1]
        super().__init__(last.removeprefix(f"{type(self).__module__}.{type(self).__name__}: "))


@contextmanager
def reading(path: str | Path, kind: str = "") -> Iterator[None]:
    """Turn any exception of the block into one line that names the file.

    With a damaged file, libraries raise anything from a SyntaxError to a MemoryError.

    Args:
        path: the file that the block reads.
        kind: what the file should be, for example "the image".

    Raises:
        FileError: for any exception; errors for the user pass unchanged.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        what = f"{kind} {path}".strip()
        raise FileError(f"cannot read {what}: {_reason(path, error)}") from error


def _reason(path: str | Path, error: Exception) -> str:
    """Say why a file cannot be read."""
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror  # without the name of the file, which is already in the line
    start = b""
    with suppress(OSError), Path(path).open("rb") as file:
        start = file.read(64).lstrip().lower()
        if not start:
            return "it is empty"
    strange = [kind for mark, kind in STRANGERS.items() if start.startswith(mark)]
    return f"it is {strange[0]}" if strange else one_line(error)


def check_regular(path: str | Path) -> None:
    """Refuse a folder, a pipe, a device and a socket: reading one could hang.

    Raises:
        FileNotFoundError: if there is nothing.
        FileError: if it is not a regular file.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 (a million Paths are slow)
        raise FileError(f"{path} is not a file")


def file_lines(files: Iterable[str | Path], root: str = "") -> Iterator[bytes]:
    """Yield path, without the root, size and time of change of files, as a line each.

    Raises:
        FileError: if one is missing.
    """
    for file in map(str, files):
        try:
            status = os.stat(file)  # noqa: PTH116 (a million Paths are slow)
        except OSError as error:
            raise FileError(f"cannot read {file}: {error.strerror}") from error
        line = f"{file.removeprefix(root)} {status.st_size} {status.st_mtime_ns}\n"
        yield os.fsencode(line)  # names need not be UTF-8


def digest_of_files(files: Iterable[str | Path], root: str = "") -> Any:
    """Hash the lines of `file_lines`: a hash object of hashlib, to add more; errors as there."""
    digest = hashlib.sha256()
    for line in file_lines(files, root):
        digest.update(line)
    return digest


def missing(path: Path) -> FileNotFoundError:
    """Make the error about a missing file or folder."""
    return FileNotFoundError(errno.ENOENT, "missing", str(path))


def read_lines(path: Path) -> list[str]:
    """Read the lines of a UTF-8 text file that are not empty.

    Raises:
        FileNotFoundError: if it is not there.
        FileError: if it cannot be read.
    """
    check_regular(path)
    with reading(path):
        return [line for line in path.read_text("utf-8-sig").splitlines() if line.strip()]


def read_table(path: Path) -> list[list[str]]:
    """Read the rows of a table with commas (.csv), or with any white space between its columns.

    Raises:
        FileNotFoundError: if it is not there.
        FileError: if it cannot be read.
    """
    lines = read_lines(path)
    with reading(path):
        return list(csv.reader(lines)) if path.suffix == ".csv" else [row.split() for row in lines]


def below(folder: Path, name: str, list_file: Path) -> str:
    """Return the path of a file named by a list; it must lie below a folder.

    Args:
        folder: folder of the files.
        name: name in the list, with forward slashes.
        list_file: the list, for the message.

    Raises:
        FileError: if the name leads elsewhere.
    """
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name:
        raise FileError(f"{list_file} names {name!r}, which is not a file below {folder}")
    return f"{folder}/{path}"

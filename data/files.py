"""Files of other people: regular ones, below their folder, and one line for whatever is wrong."""

import csv
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from utils.errors import UserError, one_line

STRANGERS = {
    b"<!doctype svg": "an SVG drawing; convert it to PNG or JPEG",
    b"<!doctype": "a web page",
    b"<html": "a web page",
    b"version https://git-lfs": "a pointer of Git LFS; git lfs pull fetches the file",
}
"""What is often found in place of data, by its first bytes in lower case."""


class FileError(UserError):
    """A file that cannot be read; the message names it.

    A DataLoader raises the error of a worker again, with the traceback of the worker as the text.
    Only the last line of that text, the original message, is for the user.
    """

    def __init__(self, message: str) -> None:
        last = message.strip().splitlines()[-1]
        super().__init__(last.removeprefix(f"{type(self).__module__}.{type(self).__name__}: "))


@contextmanager
def reading(path: str | Path, kind: str = "") -> Iterator[None]:
    """Turn whatever the block raises into one line that names the file.

    Damage makes libraries raise anything, from a SyntaxError to a MemoryError.

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
        told = f"{kind} {path}".strip()
        raise FileError(f"cannot read {told}: {_reason(path, error)}") from error


def _reason(path: str | Path, error: Exception) -> str:
    """Say why a file cannot be read."""
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror  # without the name of the file, which the line has already
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
        FileError: if it is no file.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 (a million Paths are slow)
        raise FileError(f"{path} is not a file")


def missing(path: Path) -> FileNotFoundError:
    """Make the error about a file or folder that is not there."""
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


def below(folder: Path, name: str, told_by: Path) -> str:
    """Return the path of a file that a list names, which must lie below a folder.

    Args:
        folder: where the files are.
        name: as in the list, with forward slashes.
        told_by: the list.

    Raises:
        FileError: if the name leads anywhere else.
    """
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name:
        raise FileError(f"{told_by} names {name!r}, which is no file below {folder}")
    return f"{folder}/{path}"

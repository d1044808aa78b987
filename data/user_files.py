"""Reads files of other people: only regular ones below their folder."""

import csv
import errno
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from utils.errors import FileError, reading


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
        OSError: if one is missing.
    """
    for file in map(str, files):
        status = os.stat(file)  # noqa: PTH116 (a million Paths are slow)
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

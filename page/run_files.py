"""Opens the files of runs, which others may have put there.

A run may come out of an archive, and others may write in the folder of runs. So a file is read only
if it is a regular one inside the run: no link on the way from the run's folder is followed, a pipe
or a device does not block, and what is read is bounded. The run's own folder may be a link.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

MOST_NAMES = 100_000  # of a folder

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def open_inside(run: Path, path: Path) -> Iterator[BinaryIO]:
    """Open a regular file of a run.

    Args:
        run: the run's folder.
        path: the file, below `run`.

    Raises:
        OSError: if it is not there, is not a regular file, or a link is on the way.
    """
    with _folder_inside(run, path.parent) as folder:
        descriptor = os.open(path.name, _FILE, dir_fd=folder)
        with open(descriptor, "rb") as file:  # noqa: PTH123 - it is open already
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError("it is not a regular file")
            yield file


def read_inside(run: Path, path: Path, most: int) -> bytes:
    """Read a whole file of a run.

    Args:
        run: the run's folder.
        path: the file, below `run`.
        most: bytes that it may have.

    Raises:
        OSError: as `open_inside`, or if it is larger.
    """
    with open_inside(run, path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(f"it has more than {most >> 20} MB")
    return content


def status_inside(run: Path, path: Path) -> os.stat_result | None:
    """Look at a file of a run without opening it; None if it is not there, or a link is on the way.

    The file itself may be a link, or of any kind.
    """
    try:
        with _folder_inside(run, path.parent) as folder:
            return os.stat(path.name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return None


def names_inside(run: Path, path: Path) -> list[str]:
    """List the names in a folder of a run; none if it is not there, or a link is on the way."""
    try:
        with _folder_inside(run, path) as folder, os.scandir(folder) as entries:
            return [entry.name for entry, _ in zip(entries, range(MOST_NAMES), strict=False)]
    except OSError:
        return []


@contextmanager
def _folder_inside(run: Path, path: Path) -> Iterator[int]:
    """Open a folder of a run, or the run's own folder; errors as in `open_inside`."""
    with ExitStack() as opened:
        folder = os.open(run, _FOLDER)
        opened.callback(os.close, folder)
        for name in path.relative_to(run).parts:
            folder = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
            opened.callback(os.close, folder)
        yield folder

"""Opens the files that the program writes, and follows only safe links.

In a folder that others may write to, somebody could create a link with a name that the program
uses, which leads to any file of the user.
"""

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, cast

MOST_LINKS = 40  # one after the other, as in Linux
FOREIGN_LINK = "it is a link that another user made"


def follow(path: Path) -> Path:
    """Return the file behind a name: a link may lead to a larger disk.

    Only links of this user, or of root, are followed.
    """
    for _ in range(MOST_LINKS):
        if not path.is_symlink() or path.lstat().st_uid not in (os.geteuid(), 0):
            break
        path = path.parent / path.readlink()
    return path


def open_own(path: Path, mode: str) -> BinaryIO:
    """Open a file of the program to write to it, after `follow` but through no other links.

    Args:
        path: the file.
        mode: as `open` takes it: "ab", "r+b" or "xb".

    Raises:
        OSError: as `open`; also for the link of another user, a pipe or a device.
    """
    return cast(BinaryIO, open(follow(path), mode, opener=_open_regular))


def check_replaceable(file: Path | int) -> None:
    """Refuse a folder, a device or a pipe. A link and a missing file may be replaced.

    Raises:
        OSError: saying so.
    """
    with suppress(FileNotFoundError):
        mode = os.lstat(file).st_mode if isinstance(file, Path) else os.fstat(file).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISLNK(mode):
            raise OSError(errno.EINVAL, "it is not a regular file")


def _open_regular(name: str, flags: int) -> int:
    """Open a regular file for `open`, not through a link; errors as in `open_own`."""
    try:
        # Without this flag, opening a pipe would wait for a reader.
        descriptor = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(error.errno, FOREIGN_LINK, name) from error
        raise
    try:
        check_replaceable(descriptor)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor

"""Fetching datasets so that what is on the disk is whole or not there.

A library downloads, checks and unpacks into a temporary folder inside the data folder, and what is
complete is moved to its place.
"""

import logging
import pickle
import shutil
import socket
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data.spec import DatasetSpec
from utils.errors import UserError, one_line

log = logging.getLogger(__name__)

STALL_SECONDS = 60
"""A server that says nothing for so long counts as gone."""

# What torchvision, medmnist and the readers raise for files that are missing or damaged.
LIBRARY_ERRORS = (
    OSError,
    RuntimeError,
    ValueError,
    LookupError,
    EOFError,
    zlib.error,
    zipfile.BadZipFile,
    tarfile.TarError,
    pickle.UnpicklingError,
)


def fetch(spec: DatasetSpec, root: Path, split: str, size: int, by_hand: str) -> None:
    """Download a split of a dataset, or unpack archives that lie at their place already.

    Args:
        spec: row of the dataset table.
        root: the data folder; created if need be, and removed again if nothing came of it.
        split: the library's name of the split.
        size: side of the images that are wanted.
        by_hand: how the user can do it, for the error message.

    Raises:
        UserError: if that fails; nothing is left behind.
    """
    log.info("fetching %s into %s; licence: %s", spec.name, root, spec.licence)
    created = not root.exists()
    staging = root  # until there is one
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{spec.name}.partial.", dir=root) as folder:
            staging = Path(folder)
            _link_present(spec, root, staging)
            with _impatient_sockets():
                spec.reader.fetch(staging, split, size)
            _move_into(staging, root)
    except Exception as error:  # gdown, for one, has exceptions of its own that share no base
        told = one_line(error).replace(str(staging), str(root))
        raise UserError(f"cannot fetch {spec.name}: {told}; {by_hand}") from error
    finally:
        if created and root.is_dir() and not any(root.iterdir()):
            root.rmdir()


def _link_present(spec: DatasetSpec, root: Path, staging: Path) -> None:
    """Let the library find files that are there already; it checks them before it trusts them."""
    for file in (name for path in spec.files for name in (path, f"{spec.name}/{path}")):
        if (root / file).is_file():
            (staging / file).parent.mkdir(parents=True, exist_ok=True)
            (staging / file).symlink_to((root / file).resolve())


def _move_into(source: Path, target: Path) -> None:
    """Move what was fetched to its place, into folders that may exist already."""
    for entry in source.iterdir():
        place = target / entry.name
        if entry.is_symlink():
            continue
        if entry.is_dir() and place.is_dir():
            _move_into(entry, place)
        else:
            shutil.move(entry, place)


@contextmanager
def _impatient_sockets() -> Iterator[None]:
    """The libraries set no timeout of their own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALL_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)

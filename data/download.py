"""Downloads datasets so that a dataset on disk is either complete or missing.

A library downloads, checks and unpacks into a temporary folder inside the data folder. When it is
done, the files move to their place.
"""

import importlib
import logging
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from data.spec import DatasetSpec
from utils.errors import one_line
from utils.files import temporary_folder

log = logging.getLogger(__name__)

STALL_SECONDS = 60
"""A server that sends nothing for this time counts as gone."""


class FetchError(Exception):
    """A failed download; the message is one line."""


def fetch(spec: DatasetSpec, root: Path, split: str, size: int) -> None:
    """Download a split of a dataset, or unpack archives that are already in their place.

    Args:
        spec: row of the dataset table.
        root: the data folder; made if it is missing, and removed again if it stays empty.
        split: the library's name of the split.
        size: wanted longer side of the images in pixels.

    Raises:
        FetchError: if it fails; no files are left behind.
    """
    log.info("fetching %s into %s; license: %s", spec.name, root, spec.license)
    created = not root.exists()
    staging = root  # until there is a temporary folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        with temporary_folder(root, spec.name) as folder:
            staging = folder
            _link_present(spec, root, staging)
            with _impatient_sockets():
                spec.reader.load().fetch(staging, split, size)
            _move_into(staging, root)
    except Exception as error:  # gdown's exceptions, for example, have no common base class
        raise FetchError(one_line(error).replace(str(staging), str(root))) from error
    finally:
        if created and root.is_dir() and not any(root.iterdir()):
            root.rmdir()


def _link_present(spec: DatasetSpec, root: Path, staging: Path) -> None:
    """Link existing files into the temporary folder; the library checks them."""
    for file in (name for path in spec.files for name in (path, f"{spec.name}/{path}")):
        if (root / file).is_file():
            (staging / file).parent.mkdir(parents=True, exist_ok=True)
            (staging / file).symlink_to((root / file).resolve())


def _move_into(source: Path, target: Path) -> None:
    """Move all files of a folder, but no links, into another one, whose folders may exist."""
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
    """Set a timeout for the block, because the libraries set none.

    The package requests, which gdown uses, has a setting of its own: None is to wait forever.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALL_SECONDS)
    with ExitStack() as stack:
        stack.callback(socket.setdefaulttimeout, before)
        if find_spec("requests"):
            adapter = importlib.import_module("requests.adapters").HTTPAdapter
            stack.callback(setattr, adapter, "send", adapter.send)
            adapter.send = _impatient(adapter.send)
        yield


def _impatient(send: Callable[..., Any]) -> Callable[..., Any]:
    """Let a function of requests that sends have a timeout if it has none."""

    @wraps(send)
    def impatient(*args: Any, timeout: Any = None, **more: Any) -> Any:
        return send(*args, timeout=STALL_SECONDS if timeout is None else timeout, **more)

    return impatient

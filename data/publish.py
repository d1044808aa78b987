"""Publishes the images of a mode: they replace earlier ones when all of them are finished.

Everything is made in the folder BESIDE. A kill at any moment leaves the earlier results, the new
ones, or both.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.errors import failures_of
from utils.files import exclusive_lock, make_folder, remove_leftovers, replace_file

BESIDE = "partial"
REPLACED = "replaced"  # holds an earlier folder until the new one is in its place


@contextmanager
def claim(folder: Path, doing: str) -> Iterator[None]:
    """Make a folder for results, and keep other jobs out of it in the block.

    Args:
        folder: folder for the results.
        doing: what this job does, for the message to another job.

    Raises:
        UserError: if another job works in the folder, or it cannot be written.
    """
    make_folder(folder)
    with exclusive_lock(folder / ".lock", f"another job is {doing} into {folder}"):
        remove_leftovers(folder)
        # After a kill between two renames.
        aside = folder / BESIDE / REPLACED
        if aside.is_dir() and not (folder / "images").exists():
            aside.rename(folder / "images")
        yield


def new_folder(folder: Path) -> Path:
    """Make an empty BESIDE in a claimed folder; leftovers of an earlier job are deleted."""
    shutil.rmtree(folder / BESIDE, ignore_errors=True)
    return make_folder(folder / BESIDE)


def publish(folder: Path, names: tuple[str, ...]) -> None:
    """Move results from BESIDE to their place; delete earlier ones even without a new one.

    Args:
        folder: a claimed folder; its BESIDE is removed at the end.
        names: names of the files. The folder of images, "images", is always there and moves last.

    Raises:
        UserError: if a file cannot be moved.
    """
    made = folder / BESIDE
    with failures_of(f"cannot write into {folder}"):
        for name in names:
            if (made / name).exists():
                replace_file(made / name, folder / name)
            else:
                (folder / name).unlink(missing_ok=True)
        # A folder cannot be renamed onto one with files, so the earlier folder moves away first.
        shutil.rmtree(made / REPLACED, ignore_errors=True)
        if (folder / "images").exists():
            (folder / "images").rename(made / REPLACED)
        (made / "images").rename(folder / "images")
        os.sync()
        shutil.rmtree(made)

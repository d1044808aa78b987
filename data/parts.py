"""Parts of one sampling, made by several commands, which add up in one samples.npz.

Beside `arr_0` and `arr_1`, the images and labels of ADM's layout, the file has `indices`, the
numbers of the images, `parts`, the number of the first image of the part that each belongs to, and
`sampling`, what all parts have in common, as JSON. The checksums of the zip format protect it.
"""

import json
import math
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from data.arrays import HEADERS
from utils.errors import UserError, one_line

BATCH = 64  # images read at once
NAMES = {"arr_0", "arr_1", "indices", "parts", "sampling"}


def part_arrays(
    sampling: Mapping[str, Any], indices: np.ndarray, parts: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the arrays that tell of which sampling, and which of its images, a file is."""
    return {"indices": indices, "parts": parts, "sampling": np.array(_text(sampling))}


@dataclass(frozen=True)
class Parts:
    """The images of a samples.npz.

    Attributes:
        indices: int64 (N,), rising.
        parts: int64 (N,).
        labels: int64 (N,).
    """

    path: Path
    indices: np.ndarray
    parts: np.ndarray
    labels: np.ndarray

    def outside(self, start: int, end: int) -> np.ndarray:
        """Choose what stays beside a new part with the images `start` to `end`; bool (N,).

        An earlier part with the same first image goes, also if it is longer.
        """
        return ((self.indices < start) | (self.indices >= end)) & (self.parts != start)

    def blocks(self, chosen: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield those images that are chosen, bool (N,), as uint8 (B, H, W, C), and their labels.

        The whole file is read, because its checksum is that of all images.

        Raises:
            UserError: if it is damaged.
        """
        if not chosen.any():
            return
        with (
            _damage_is_named(self.path),
            zipfile.ZipFile(self.path) as archive,
            archive.open("arr_0.npy") as file,
        ):
            _, *image_shape = _shape(file, len(chosen))
            for start in range(0, len(chosen), BATCH):
                wanted = chosen[start : start + BATCH]
                data = file.read(len(wanted) * math.prod(image_shape))
                images = np.frombuffer(data, np.uint8).reshape(len(wanted), *image_shape)
                if wanted.any():
                    yield images[wanted], self.labels[start : start + BATCH][wanted]
            if file.read():  # which also verifies the checksum
                raise ValueError("arr_0 is longer than its header says")


def earlier_parts(path: Path, sampling: Mapping[str, Any]) -> Parts:
    """Open the earlier parts of a sampling; no images if there are none, or those of another one.

    Args:
        path: a samples.npz, which may be missing.
        sampling: what all parts have in common, as plain data.

    Raises:
        UserError: if the file is damaged.
    """
    nothing = Parts(path, *[np.empty(0, np.int64)] * 3)
    if not path.is_file():
        return nothing
    with (
        _damage_is_named(path),
        zipfile.ZipFile(path),  # np.load takes what is no zip for something else
        path.open("rb") as file,
        np.load(file, allow_pickle=False) as stored,
    ):
        names = set(stored.files)
        if names <= {"arr_0", "arr_1"}:  # of a version before, which does not say of which sampling
            return nothing
        if names != NAMES:
            raise ValueError(f"it holds {', '.join(sorted(names))}")
        if str(stored["sampling"]) != _text(sampling):
            return nothing
        arrays = [stored[name] for name in ("indices", "parts", "arr_1")]
        kinds = {(array.dtype, array.ndim, array.shape) for array in arrays}
        if len(kinds) > 1 or arrays[0].ndim != 1 or (np.diff(arrays[0]) <= 0).any():
            raise ValueError("its indices do not number its images")
    return Parts(path, *arrays)


def _text(sampling: Mapping[str, Any]) -> str:
    """Format what all parts have in common."""
    return json.dumps(sampling, sort_keys=True)


def _shape(file: IO[bytes], count: int) -> tuple[int, ...]:
    """Read the header of `count` images; their shape.

    Raises:
        Exception: of any kind if it is damaged, or is that of something else.
    """
    shape, fortran_order, dtype = HEADERS[np.lib.format.read_magic(file)](file)
    if fortran_order or dtype != np.uint8 or len(shape) != 4 or shape[0] != count:
        raise ValueError(f"arr_0 is {dtype} {shape}")
    return shape


@contextmanager
def _damage_is_named(path: Path) -> Iterator[None]:
    """Turn whatever the readers of zip and numpy raise about a file into one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # numpy parses the header as Python: damage raises anything
        raise UserError(
            f"{path} is damaged ({one_line(error)}), so that nothing can be added to it: move it "
            "away, and the same command goes on from here"
        ) from error

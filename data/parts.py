"""Parts of one sampling, made by several commands and joined in one samples.npz.

The file has these arrays: `arr_0` and `arr_1`, the images and labels in ADM's layout; `indices`,
the numbers of the images; `parts`, for each image the number of the first image of its part;
`sampling`, what all parts have in common, as JSON. The checksums of the zip format protect them.
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

READ_IMAGES = 64  # images read at once
NAMES = {"arr_0", "arr_1", "indices", "parts", "sampling"}


def part_arrays(
    sampling: Mapping[str, Any], indices: np.ndarray, parts: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the arrays that identify the sampling and the images in a file."""
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
        """Mark the images that stay beside a new part with images `start` to `end`; bool (N,).

        An earlier part with the same first image is replaced, even if it is longer.
        """
        return ((self.indices < start) | (self.indices >= end)) & (self.parts != start)

    def blocks(self, chosen: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the chosen images, bool (N,), as uint8 (B, H, W, C), and their labels.

        The whole file is read, because its checksum covers all images.

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
            for start in range(0, len(chosen), READ_IMAGES):
                wanted = chosen[start : start + READ_IMAGES]
                data = file.read(len(wanted) * math.prod(image_shape))
                images = np.frombuffer(data, np.uint8).reshape(len(wanted), *image_shape)
                if wanted.any():
                    yield images[wanted], self.labels[start : start + READ_IMAGES][wanted]
            if file.read():  # which also verifies the checksum
                raise ValueError("arr_0 is longer than its header says")


def earlier_parts(path: Path, sampling: Mapping[str, Any]) -> Parts:
    """Open the earlier parts of a sampling; no images if there are only those of another sampling.

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
        zipfile.ZipFile(path),  # without it np.load would try other formats than zip
        path.open("rb") as file,
        np.load(file, allow_pickle=False) as stored,
    ):
        names = set(stored.files)
        if names <= {"arr_0", "arr_1"}:  # written by an older version, without `sampling`
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
    """Format `sampling` as JSON."""
    return json.dumps(sampling, sort_keys=True)


def _shape(file: IO[bytes], count: int) -> tuple[int, ...]:
    """Read the header of `count` images and return their shape.

    Raises:
        Exception: any kind, if it is damaged or not the header of such images.
    """
    shape, fortran_order, dtype = HEADERS[np.lib.format.read_magic(file)](file)
    if fortran_order or dtype != np.uint8 or len(shape) != 4 or shape[0] != count:
        raise ValueError(f"arr_0 is {dtype} {shape}")
    return shape


@contextmanager
def _damage_is_named(path: Path) -> Iterator[None]:
    """Turn any exception of the readers of zip and numpy into one line that names the file."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # numpy parses the header as Python: damage raises anything
        raise UserError(
            f"{path} is damaged ({one_line(error)}), so nothing can be added to it: move it away, "
            "and the same command continues from here"
        ) from error

"""Arrays in files: IDX, .npy and .npz, of which no more is read than they may hold.

What a file declares is compared with what it holds before memory is taken for it. Axes: N images,
H W pixels, C channels.
"""

import gzip
import math
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from data.files import FileError, check_regular, reading
from data.image_file import most_pixels
from data.tree import named

MOST_IDX_BYTES = 1 << 30  # the largest set in this format that is known has half of it
HEADERS: dict[tuple[int, int], Callable[..., Any]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


Accepts = Callable[[tuple[int, ...], np.dtype], bool]
"""Whether an array of this shape and type is wanted."""


def read_idx(path: Path, dims: int) -> np.ndarray:
    """Read an IDX file of bytes, gzipped (.gz) or not.

    Args:
        path: the file.
        dims: number of axes that it must have.

    Raises:
        FileNotFoundError: if it is not there.
        FileError: if it is damaged or of another kind.
    """
    check_regular(path)
    with reading(path), gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        if file.read(4) != bytes([0, 0, 8, dims]):
            raise ValueError(f"it is no IDX file of bytes with {dims} axes")
        shape = struct.unpack(f">{dims}I", file.read(4 * dims))
        size = math.prod(shape)
        if size > MOST_IDX_BYTES:
            raise ValueError(f"it declares {size:,} bytes, more than any data set of its kind has")
        data = file.read(size + 1)
        if len(data) != size:
            raise ValueError(f"it holds {len(data):,} bytes of {size:,}")
        return np.frombuffer(data, np.uint8).reshape(shape)


def read_npz(path: Path, name: str, accepts: Accepts, wanted: str) -> np.ndarray:
    """Read one array of an .npz file.

    Args:
        path: the file.
        name: of the array.
        accepts: says whether an array is wanted; nothing else is read.
        wanted: the same in words, for the message.

    Raises:
        FileNotFoundError: if the file is not there.
        FileError: if it is damaged or has no such array.
    """
    with open_npy(path, name) as (file, shape, dtype, in_fortran_order):
        if not accepts(shape, dtype):
            raise ValueError(f"{name} is {dtype} {shape}, not {wanted}")
        array = np.frombuffer(file.read(math.prod(shape) * dtype.itemsize), dtype)
        return array.reshape(shape, order="F" if in_fortran_order else "C")


@contextmanager
def open_npy(path: Path, name: str) -> Iterator[tuple[IO[bytes], tuple[int, ...], np.dtype, bool]]:
    """Open an array of an .npz file, or the one of an .npy file, to read its bytes.

    Whatever is raised in the block becomes a FileError that names the file.

    Args:
        path: the file.
        name: of the array in an .npz file.

    Yields:
        The file behind its header, the shape, the type, and whether it is in Fortran's order.
    """
    check_regular(path)
    with reading(path):
        if path.suffix == ".npy":
            with path.open("rb") as file:
                yield file, *_header(file, path.stat().st_size)
        else:
            with zipfile.ZipFile(path) as archive:
                if f"{name}.npy" not in archive.namelist():
                    others = named(other.removesuffix(".npy") for other in archive.namelist())
                    raise FileError(f"cannot read {path}: it has no {name} ({others or 'nothing'})")
                with archive.open(f"{name}.npy") as file:
                    yield file, *_header(file, archive.getinfo(f"{name}.npy").file_size)


def images_shape(
    shape: tuple[int, ...], dtype: np.dtype, in_fortran_order: bool
) -> tuple[int, int, int, int]:
    """Return N, H, W, C of an array of images.

    Raises:
        ValueError: if it is none.
    """
    if len(shape) == 3 and shape[2] in (1, 3, 4):
        raise ValueError(f"{dtype} {shape} is one image or many narrow ones: write images[None]")
    told = f"{dtype} {shape}" + (" in Fortran's order" if in_fortran_order else "")
    shape = (*shape, 1) if len(shape) == 3 else shape
    if dtype != np.uint8 or len(shape) != 4 or shape[3] not in (1, 3) or in_fortran_order:
        raise ValueError(f"the images are {told}, not uint8 (N, H, W, C) with C 1 or 3")
    if shape[1] * shape[2] > most_pixels() or not math.prod(shape):
        raise ValueError(f"the images are {told}")
    count, height, width, channels = shape
    return count, height, width, channels


def class_labels(labels: np.ndarray) -> np.ndarray:
    """Convert labels of any usual shape and type to int64 (N,).

    Args:
        labels: (N,) or (N, 1) of whole numbers, also stored as floats or bools, or one-hot (N, K).

    Raises:
        ValueError: if they are anything else.
    """
    rows = labels.reshape(len(labels), -1)
    if rows.dtype.kind not in "biuf" or not rows.size:
        raise ValueError(f"{labels.dtype} {labels.shape} is not whole numbers")
    if rows.shape[1] > 1:
        if not (np.isin(rows, (0, 1)) & (rows.sum(1, keepdims=True) == 1)).all():
            raise ValueError(f"{labels.dtype} {labels.shape} is not one class for each image")
        return rows.argmax(1)
    with np.errstate(invalid="ignore"):  # of what is no whole number of 64 bits
        whole = rows[:, 0].astype(np.int64)
    if (whole != rows[:, 0]).any():
        raise ValueError(f"{labels.dtype} {labels.shape} is not whole numbers")
    return whole


def _header(file: IO[bytes], length: int) -> tuple[tuple[int, ...], np.dtype, bool]:
    """Read the header of an array; refuse one that declares another size than the file has.

    Args:
        file: at its start.
        length: of the file in bytes.
    """
    shape, in_fortran_order, dtype = HEADERS[np.lib.format.read_magic(file)](file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are not read")
    declared, held = math.prod(shape) * dtype.itemsize, length - file.tell()
    if declared != held:
        raise ValueError(f"it declares {declared:,} bytes and holds {held:,}")
    return shape, dtype, in_fortran_order

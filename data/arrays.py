"""Reads arrays from IDX, .npy and .npz files, and never more than a file may hold.

The size that a file declares is compared with its real size before memory is allocated. Axes:
N images, H W pixels, C channels.
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

from data.image_file import MOST_PIXELS
from data.user_files import check_regular
from utils.errors import FileError, named, reading

MOST_IDX_BYTES = 1 << 30  # twice the largest known dataset in this format
HEADERS: dict[tuple[int, int], Callable[..., Any]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


Accepts = Callable[[tuple[int, ...], np.dtype], bool]
"""Whether an array of this shape and type is wanted."""


def read_idx(path: Path, dims: int) -> np.ndarray:
    """Read an IDX file of bytes with `dims` axes, gzipped (.gz) or not.

    Raises:
        FileNotFoundError: if the file does not exist.
        FileError: if it is damaged or of another kind.
    """
    check_regular(path)
    with reading(path), gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        if file.read(4) != bytes([0, 0, 8, dims]):
            raise ValueError(f"it is not an IDX file of bytes with {dims} axes")
        shape = struct.unpack(f">{dims}I", file.read(4 * dims))
        size = math.prod(shape)
        if size > MOST_IDX_BYTES:
            raise ValueError(f"it declares {size:,} bytes, more than any dataset of its kind has")
        data = file.read(size + 1)
        if len(data) != size:
            raise ValueError(f"it holds {len(data):,} bytes of {size:,}")
        return np.frombuffer(data, np.uint8).reshape(shape)


def read_npz(path: Path, name: str, accepts: Accepts, wanted: str) -> np.ndarray:
    """Read one array of an .npz file.

    Args:
        path: the file.
        name: name of the array.
        accepts: decides by shape and type whether the array is read.
        wanted: the same in words, for the message.

    Raises:
        FileNotFoundError: if the file does not exist.
        FileError: if it is damaged or has no such array.
    """
    with open_npy(path, name) as (file, shape, dtype, in_fortran_order):
        if not accepts(shape, dtype):
            raise ValueError(f"{name} is {dtype} {shape}, not {wanted}")
        array = np.frombuffer(file.read(math.prod(shape) * dtype.itemsize), dtype)
        return array.reshape(shape, order="F" if in_fortran_order else "C")


@contextmanager
def open_npy(path: Path, name: str) -> Iterator[tuple[IO[bytes], tuple[int, ...], np.dtype, bool]]:
    """Open an array of an .npz or .npy file, to read its bytes.

    Any exception in the block becomes a FileError that names the file.

    Yields:
        The file, positioned after the header; the shape; the type; whether it is in Fortran order.
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
        ValueError: if it is not an array of images.
    """
    if len(shape) == 3 and shape[2] in (1, 3, 4):
        raise ValueError(f"{dtype} {shape} is one image or many narrow ones: write images[None]")
    found = f"{dtype} {shape}" + (" in Fortran's order" if in_fortran_order else "")
    shape = (*shape, 1) if len(shape) == 3 else shape
    if dtype != np.uint8 or len(shape) != 4 or shape[3] not in (1, 3) or in_fortran_order:
        raise ValueError(f"the images are {found}, not uint8 (N, H, W, C) with C 1 or 3")
    if shape[1] * shape[2] > MOST_PIXELS or not math.prod(shape):
        raise ValueError(f"the images are {found}")
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
    with np.errstate(invalid="ignore"):  # for values that are not whole numbers of 64 bits
        whole = rows[:, 0].astype(np.int64)
    if (whole != rows[:, 0]).any():
        raise ValueError(f"{labels.dtype} {labels.shape} is not whole numbers")
    return whole


def _header(file: IO[bytes], length: int) -> tuple[tuple[int, ...], np.dtype, bool]:
    """Read the header at the start of a file of `length` bytes; check the size that it declares."""
    shape, in_fortran_order, dtype = HEADERS[np.lib.format.read_magic(file)](file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are not read")
    declared, held = math.prod(shape) * dtype.itemsize, length - file.tell()
    if declared != held:
        raise ValueError(f"it declares {declared:,} bytes and holds {held:,}")
    return shape, dtype, in_fortran_order

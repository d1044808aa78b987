"""Reads and writes the statistics of real images, as other programs keep them.

A file is one of
- an .npz with mean and covariance: `mu`, `sigma` (EDM, MAR, MaskBit, clean-fid); ADM's adds those
  of the spatial features, `mu_s` and `sigma_s`, and 10,000 images, `arr_0`;
- an .npz with features: `feats` (clean-fid's ..._kid.npz);
- a pickle with a dictionary for each kind of features: `fid`, `fd_dinov2` (EDM2);
- a file of torch.save with `mu` and `cov` (Halton MaskGIT).

Nothing in a file is run. Axes: D width of a feature, N images.
"""

import io
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.arrays import images_shape, open_npy, read_npz
from data.generated import Blocks, write_npz
from data.user_files import check_regular
from metrics.features import FeatureSet, drawn_images
from utils.errors import FieldError, reading
from utils.files import atomic_write, check_place, read_with_digest
from utils.plain_pickle import Unpickler
from utils.torch_file import PLAIN_BYTES, is_torch_file, read_torch_file

MOST_WIDTH = 8192  # D of any known network is far below
MOST_VALUE = 1e30  # likewise; squares and cubes of larger numbers are not finite
MOST_ARRAYS = 32  # of an .npz; the others are not looked at
MEANS = {"mu": ("sigma", "cov"), "mu_s": ("sigma_s",)}  # names of the covariance beside a mean
SECTIONS = ("fid", "fd_dinov2")  # of EDM2, by kind of features
ENDINGS = (".npz", ".pkl")  # of files that are written


@dataclass(frozen=True)
class ReferenceFile:
    """What a file holds.

    Attributes:
        digest: first 16 digits of its SHA-256.
        holds: names, types and shapes of its contents, for messages.
        statistics: mean float64 (D,) and covariance float64 (D, D); None if there are none.
        spatial: the same of the spatial features.
        features: float (N, D); None if there are none.
        images_shape: N, H, W, C of the images `arr_0`; None if there are none.
        count: the number of images behind the statistics; None if the file does not say it.
    """

    path: Path
    digest: str
    holds: str
    statistics: tuple[Tensor, Tensor] | None
    spatial: tuple[Tensor, Tensor] | None
    features: Tensor | None
    images_shape: tuple[int, int, int, int] | None
    count: int | None

    def error(self, reason: str) -> FieldError:
        """Make the error that the file does not fit; the message says what it holds."""
        return FieldError("reference", self.path, f"{reason}; it holds {self.holds}")


def read_reference(path: Path, section: str) -> ReferenceFile:
    """Read a file of statistics.

    Args:
        section: the part of a file of EDM2, one of SECTIONS.

    Raises:
        UserError: if it is missing or damaged, or holds nothing to compare with; the message says
            what it holds.
    """
    if not path.is_file():
        raise FieldError("reference", path, "it is neither train, validation nor a file")
    with reading(path, "the reference"):
        (arrays, images, holds), digest = read_with_digest(path, _contents)
    try:
        in_section = arrays.get(section)
        if isinstance(in_section, dict):
            arrays = {**arrays, **in_section}
        mean, spatial = (_statistics(arrays, name) for name in MEANS)
        features, count = arrays.get("feats"), arrays.get("num_images")
        if features is not None:
            _check_numbers("feats", features, 2)
        if mean is None and features is None and images is None:
            is_of_edm2 = any(name in arrays for name in SECTIONS)
            wanted = f"{section} with mu and sigma" if is_of_edm2 else "mu and sigma, feats, arr_0"
            raise ValueError(f"it has no {wanted}")
    except ValueError as error:
        raise FieldError("reference", path, f"{error}; it holds {holds}") from error
    count = count if type(count) is int else None
    return ReferenceFile(path, digest[:16], holds, mean, spatial, features, images, count)


def write_reference(path: Path, real: FeatureSet, blocks: Blocks, section: str) -> None:
    """Write statistics in a form that the programs of this field read.

    An .npz has mu, sigma, mu_s and sigma_s, up to 10,000 of the images as arr_0, and their labels
    as arr_1: the form of ADM, of which EDM, EDM2 and clean-fid read mu and sigma. A .pkl is EDM2's.

    Args:
        real: features of all images.
        blocks: the images uint8 (B, H, W, C) and their labels, in the order of the features; read
            for an .npz only.
        section: the part of a file of EDM2, one of SECTIONS.

    Raises:
        UserError: if the ending is another one, or the file cannot be written.
    """
    statistics = {"mu": real.mean.numpy(), "sigma": real.covariance.numpy()}
    if path.suffix == ".pkl":
        with atomic_write(path) as file:
            pickle.dump({"num_images": real.count, section: statistics}, file, protocol=4)
        return
    if real.spatial is not None:
        mean, covariance = real.spatial
        statistics |= {"mu_s": mean.numpy(), "sigma_s": covariance.numpy()}
    assert real.count is not None, "the images are known"
    drawn = drawn_images(real.count)
    title = f"writing {path.name}"
    write_npz(path, _chosen(blocks, drawn), int(drawn.sum()), title, statistics, keep=1)


def check_written(path: Path) -> None:
    """Refuse a file to write whose name says no form, or whose folder cannot be made."""
    if path.suffix not in ENDINGS:
        reason = "its name must end in .npz (ADM, EDM, clean-fid) or .pkl (EDM2)"
        raise FieldError("write_reference", path, reason)
    check_place(path)


def _chosen(blocks: Blocks, chosen: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the chosen images, bool (N,), in color, and their labels."""
    start = 0
    for images, labels in blocks:
        wanted = chosen[start : start + len(images)]
        start += len(images)
        if wanted.any():
            color = np.broadcast_to(images[wanted], (int(wanted.sum()), *images.shape[1:3], 3))
            yield np.ascontiguousarray(color), labels[wanted]


def _contents(path: Path) -> tuple[Mapping[str, Any], tuple[int, int, int, int] | None, str]:
    """Read a file: arrays by name, the shape of its images, and what it holds in words.

    Raises:
        Exception: any kind, if it is damaged.
    """
    check_regular(path)
    if zipfile.is_zipfile(path) and not is_torch_file(path):
        return _npz_contents(path)
    stored = read_torch_file(path) if is_torch_file(path) else _pickle_contents(path)
    if not isinstance(stored, dict):
        raise ValueError(f"it holds a {type(stored).__name__} and not arrays by name")
    return stored, None, ", ".join(_described(name, value) for name, value in stored.items())


def _npz_contents(path: Path) -> tuple[dict[str, Any], tuple[int, int, int, int] | None, str]:
    """Read the arrays of an .npz, as `_contents`; the images stay in the file."""
    with zipfile.ZipFile(path) as archive:
        entries = [name for name in archive.namelist() if name.endswith(".npy")]
    names = [name.removesuffix(".npy") for name in entries[:MOST_ARRAYS]]
    kinds: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
    images = None
    for name in names:
        with open_npy(path, name) as (_, shape, dtype, in_fortran_order):
            kinds[name] = (shape, dtype)
            if name == "arr_0" and path.suffix == ".npz":
                images = images_shape(shape, dtype, in_fortran_order)
    wanted = {"feats", *MEANS, *(other for others in MEANS.values() for other in others)}
    arrays = {name: torch.from_numpy(_array(path, name)) for name in names if name in wanted}
    holds = ", ".join(f"{name} {dtype} {shape}" for name, (shape, dtype) in kinds.items())
    return arrays, images, holds or "nothing"


def _array(path: Path, name: str) -> np.ndarray:
    """Read an array of numbers, (N, D) or smaller, in the byte order of this machine."""

    def fits(shape: tuple[int, ...], dtype: np.dtype) -> bool:
        return dtype.kind == "f" and len(shape) in (1, 2) and shape[-1] <= MOST_WIDTH

    wanted = f"numbers (D,) or (N, D) with D of at most {MOST_WIDTH}"
    array = read_npz(path, name, fits, wanted)
    return np.array(array, array.dtype.newbyteorder("="), order="C")


def _pickle_contents(path: Path) -> Any:
    """Read a pickle of plain data and arrays of numpy, without running what it names."""
    data = path.read_bytes()
    if not data.startswith(b"\x80"):
        raise ValueError("it is not a .npz, a pickle or a file of torch.save")
    return Unpickler(_no_storage, PLAIN_BYTES + len(data)).load(io.BytesIO(data))


def _no_storage(reference: tuple[Any, ...]) -> Any:
    """Refuse data outside of the pickle."""
    raise ValueError("it refers to data outside of it")


def _described(name: Any, value: Any) -> str:
    """Say what an entry of a file is."""
    if isinstance(value, Tensor):
        return f"{name} {str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if isinstance(value, dict):
        return f"{name} ({', '.join(_described(*entry) for entry in value.items())})"
    return f"{name} {value}" if isinstance(value, int | float) else f"{name} {type(value).__name__}"


def _statistics(arrays: Mapping[str, Any], name: str) -> tuple[Tensor, Tensor] | None:
    """Find a mean by its name, and the covariance beside it.

    Returns:
        float64 (D,) and float64 (D, D); None if there is no such mean.

    Raises:
        ValueError: if they cannot be mean and covariance.
    """
    mean = arrays.get(name)
    if mean is None:
        return None
    _check_numbers(name, mean, 1)
    other = next((other for other in MEANS[name] if other in arrays), None)
    if other is None:
        raise ValueError(f"it has {name} without {' or '.join(MEANS[name])}")
    covariance = arrays[other]
    _check_numbers(other, covariance, 2)
    mean, covariance = mean.double(), covariance.double()
    if covariance.shape != (len(mean), len(mean)):
        shapes = f"{name} {tuple(mean.shape)}, {other} {tuple(covariance.shape)}"
        raise ValueError(f"its statistics do not fit each other: {shapes}")
    spread = covariance.diagonal()
    skew = (covariance - covariance.T).abs().max()
    if (spread < 0).any() or skew > 1e-3 * spread.max():
        raise ValueError(f"its {other} is not a covariance: it must be symmetric, with no negative")
    return mean, covariance


def _check_numbers(name: str, array: Any, axes: int) -> None:
    """Refuse anything but a tensor of usual numbers with so many axes.

    Raises:
        ValueError: naming what it is.
    """
    if not isinstance(array, Tensor) or array.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{_described(name, array)} is not an array of float32 or float64")
    if array.ndim != axes or not array.numel() or array.shape[-1] > MOST_WIDTH:
        raise ValueError(f"{_described(name, array)} does not have {axes} axes of usual lengths")
    if not (array.abs() <= MOST_VALUE).all():
        raise ValueError(f"its {name} holds values that are not finite, or above {MOST_VALUE:g}")

"""Damage to files: to their bytes, or to what they hold."""

import copy
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hostile_files import archive, doubled, in_itself
from torch import Tensor

HEADERS = (
    b"PK\x03\x04",
    b"\x93NUMPY\x01\x00",
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff\xe0",
    b"\x80\x02}q",
)
DTYPES = (torch.int64, torch.float16, torch.float64, torch.complex64, torch.bool, torch.uint8)
# By what was there before: values that no entry of that kind may have.
IMPOSSIBLE = {
    int: (-1, 2.5, float("nan"), "text", None, [], {"a": 1}, torch.ones(2, 3)),
    float: (float("nan"), "text", None, [], torch.ones(2, 3)),
    str: (-1, 2.5, None, [], {"a": 1}, torch.ones(2, 3)),
    bool: (-1, "text", None, []),
    type(None): (-1, 2.5, float("nan"), {"a": 1}, torch.ones(2, 3)),
}
# Values that nothing may have: without axes or with nothing on one, in themselves, deep, repeated.
NEVER = (
    torch.ones(()),
    torch.ones(0, 3),
    in_itself("list"),
    in_itself("dict"),
    doubled([], 60),
    doubled(0, 60, tuple),
    doubled("x", 1, lambda pair: [[[pair]]]),
)
NO_CONTAINERS = (-1, 2.5, "text", None, torch.ones(2, 3))  # also no tensors of weights


def damaged(data: bytes, generator: np.random.Generator) -> bytes:
    """Flip bits, cut, overwrite, repeat, drop or exchange parts of a file."""
    changed = bytearray(data)
    start, stop = sorted(generator.integers(0, len(data) + 1, 2).tolist())
    match generator.integers(8):
        case 0:
            changed[generator.integers(len(data))] ^= 1 << generator.integers(8)
        case 1:
            for position in generator.integers(0, len(data), 20):
                changed[position] = generator.integers(256)
        case 2:
            changed = changed[:start]
        case 3:
            changed[start:stop] = bytes(stop - start)
        case 4:
            changed[start:start] = changed[start:stop]
        case 5:
            del changed[start:stop]
        case 6:
            changed[:64] = generator.bytes(64)
        case 7:
            header = HEADERS[generator.integers(len(HEADERS))]
            changed[: len(header)] = header
    return bytes(changed)


def damage_pickle(path: Path, generator: np.random.Generator) -> None:
    """Damage the pickle in a file of torch.save; the checksum of the archive is right again."""
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as honest:
        records = {n.partition("/")[2]: honest.read(n) for n in honest.namelist()}
    path.write_bytes(archive(damaged(records.pop("data.pkl"), generator), **records))


def changed(contents: Any, generator: np.random.Generator, never: tuple[Any, ...] = NEVER) -> Any:
    """Make one entry of nested dictionaries and lists what it must not be; returns a copy.

    Weights get another dtype or shape or a value that is not finite; a dictionary loses or gains an
    entry; anything may become a value of another kind, or one of `never` that differs in kind.
    """
    contents = copy.deepcopy(contents)
    places = list(_places(contents))
    # Tensors are so many that nothing else would be met.
    tensors = [place for place in places if isinstance(place[0][place[1]], Tensor)]
    others = [place for place in places if not isinstance(place[0][place[1]], Tensor)]
    chosen = tensors if tensors and (not others or generator.integers(2)) else others
    parent, key = chosen[generator.integers(len(chosen))]
    value = parent[key]
    match generator.integers(5):
        case 4 if never:
            wrong = [other for other in never if not _is_alike(other, value)]
            parent[key] = wrong[generator.integers(len(wrong))]
        case 0 if isinstance(parent, dict):
            del parent[key]
        case 1 if isinstance(parent, dict):
            parent[f"{key}.extra"] = value
        case 2 | 3 if isinstance(value, Tensor):
            parent[key] = changed_tensor(value, generator)
        case _:
            values = IMPOSSIBLE.get(type(value), NO_CONTAINERS)
            parent[key] = values[generator.integers(len(values))]
    return contents


def changed_tensor(tensor: Tensor, generator: np.random.Generator) -> Tensor:
    """The tensor in another dtype or shape, or with a value that is not finite."""
    dtypes = [dtype for dtype in DTYPES if dtype != tensor.dtype]
    match generator.integers(3):
        case 0 if tensor.is_floating_point():
            broken = tensor.clone(memory_format=torch.contiguous_format)
            broken.view(-1)[generator.integers(tensor.numel())] = (
                float("nan") if generator.integers(2) else float("inf")
            )
            return broken
        case 1:
            return torch.stack([tensor, tensor]) if generator.integers(2) else tensor[..., None][:0]
        case _:
            return tensor.to(dtypes[generator.integers(len(dtypes))])


def _is_alike(one: Any, other: Any) -> bool:
    """Whether these are tensors of one kind, such as counters: then both values are possible."""
    if not (isinstance(one, Tensor) and isinstance(other, Tensor)):
        return False
    return (one.dtype, one.shape) == (other.dtype, other.shape)


def _places(contents: Any) -> Iterator[tuple[Any, Any]]:
    """Every entry, as the dictionary or list that holds it and its key there."""
    keys = contents if isinstance(contents, dict) else range(len(contents))
    for key in list(keys):
        yield contents, key
        if isinstance(contents[key], dict | list):
            yield from _places(contents[key])

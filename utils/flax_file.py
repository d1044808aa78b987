"""Reads the checkpoints of flax, without flax and without running code from them.

A file is MessagePack (https://github.com/msgpack/msgpack/blob/master/spec.md): a map of names to
arrays, or to more such maps. An array is an extension, which holds its shape, the name of its type,
and its bytes, again as MessagePack.
"""

import importlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from torch import Tensor

from utils.plain_pickle import DTYPES, MOST_AXES, MOST_LEVELS, array_of

ARRAYS = (1, 3)  # types of extensions: an array, and a single number as an array without axes
MOST_ENTRIES = 1 << 17  # of a map or a list; published files have about a thousand in all


def is_flax(beginning: bytes) -> bool:
    """Whether the first bytes are those of a map whose first name has at most 31 letters."""
    if not beginning or not (0x81 <= beginning[0] < 0x90 or beginning[0] in (0xDE, 0xDF)):
        return False
    name = {0xDE: 3, 0xDF: 5}.get(beginning[0], 1)
    return 0xA1 <= int.from_bytes(beginning[name : name + 1], "big") < 0xC0


def read_flax(file: BinaryIO, size: int) -> dict[str, Any]:
    """Read a file: arrays and other values by their names; names in a map follow its own and a dot.

    Args:
        file: the file, at its beginning.
        size: its bytes.

    Raises:
        EOFError: if it ends early.
        ValueError: if it is not such a file, or the package msgpack is missing.
    """
    try:
        msgpack = importlib.import_module("msgpack")
    except ImportError as error:
        reason = "it is a file of flax, for which you need: pip install -r requirements-flax.txt"
        raise ValueError(reason) from error

    def array(kind: int, data: bytes) -> Tensor:
        if kind not in ARRAYS:
            raise ValueError(f"it has an extension of type {kind}, which is not an array")
        return _array(msgpack.unpackb(data, max_array_len=MOST_AXES))

    unpacker = msgpack.Unpacker(
        file,
        max_buffer_size=max(size, 1),
        max_array_len=MOST_ENTRIES,
        max_map_len=MOST_ENTRIES,
        strict_map_key=False,  # so that `_map` gives the reason
        object_pairs_hook=_map,
        ext_hook=array,
    )
    try:
        stored = unpacker.unpack()
    except msgpack.OutOfData as error:
        raise EOFError from error
    except msgpack.UnpackException as error:
        raise ValueError("it is not MessagePack") from error
    if not isinstance(stored, dict) or unpacker.tell() < size:
        raise ValueError("it is not one map of MessagePack")
    return dict(_flat(stored, "", 1))


def _map(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    """Make a map; ValueError if a name is not a text, or is there twice."""
    found = dict(pairs)
    if len(found) < len(pairs) or not all(isinstance(name, str) for name in found):
        raise ValueError("a name in it is not a text, or is there twice")
    return found


def _array(described: Any) -> Tensor:
    """Make an array from its shape, the name of its type, and its bytes; ValueError if wrong."""
    try:
        shape, name, data = described
        shape, dtype = tuple(shape), DTYPES[f"torch.{name}"]
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError("an array in it is not described") from error
    return array_of(shape, dtype, False, data)


def _flat(stored: dict[str, Any], before: str, level: int) -> Iterator[tuple[str, Any]]:
    """Yield the values of nested maps with their full names."""
    if level > MOST_LEVELS:
        raise ValueError("it has too many maps in maps")
    for name, value in stored.items():
        if isinstance(value, list) and any(isinstance(part, list | dict) for part in value):
            raise ValueError("it has a list of lists or maps")
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name}.", level + 1)
        else:
            yield before + name, value

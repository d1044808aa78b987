"""Reads the checkpoints of flax, without flax and without running code from them.

A file is MessagePack (https://github.com/msgpack/msgpack/blob/master/spec.md): a map of names to
arrays, or to more such maps. An array is an extension, which holds its shape, the name of its type,
and its bytes, again as MessagePack.
"""

import math
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

import torch
from torch import Tensor

from utils.plain_pickle import DTYPES, MOST_AXES, MOST_LEVELS

ARRAYS = (1, 3)  # types of extensions: an array, and a single number as an array without axes
MOST_ENTRIES = 1 << 17  # of all maps and lists; published files have about a thousand
SIZED = {  # by the first byte of a value: its kind, and how the number behind that byte is written
    first + place: (kind, f">{code}")
    for first, kind, codes in (
        (0xC4, "bytes", "BHI"),
        (0xC7, "extension", "BHI"),
        (0xCA, "value", "fdBHIQbhiq"),
        (0xD9, "text", "BHI"),
        (0xDC, "list", "HI"),
        (0xDE, "map", "HI"),
    )
    for place, code in enumerate(codes)
}
SHORT = (  # first bytes of kinds whose number is in that byte: from, up to
    (0x00, 0x80, "value"),
    (0x80, 0x90, "map"),
    (0x90, 0xA0, "list"),
    (0xA0, 0xC0, "text"),
)
CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True} | {0x100 + n: n for n in range(-32, 0)}


def is_flax(beginning: bytes) -> bool:
    """Whether the first bytes are those of a map whose first name has at most 31 letters."""
    if not beginning or not (0x81 <= beginning[0] < 0x90 or beginning[0] in (0xDE, 0xDF)):
        return False
    name = {0xDE: 3, 0xDF: 5}.get(beginning[0], 1)
    return 0xA1 <= int.from_bytes(beginning[name : name + 1], "big") < 0xC0


def read_flax(file: BinaryIO, size: int) -> dict[str, Any]:
    """Read a file: arrays and other values by their names; names in a map follow its own and a dot.

    Raises:
        EOFError: if it ends early.
        ValueError: if it is no such file.
    """
    stored = _Reader(file, size).value(0)
    if not isinstance(stored, dict) or file.read(1):
        raise ValueError("it is not one map of MessagePack")
    return dict(_flat(stored, ""))


def _flat(stored: dict[str, Any], before: str) -> Iterator[tuple[str, Any]]:
    """Yield the values of nested maps with their full names."""
    for name, value in stored.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield before + name, value


class _Reader:
    """Reads values one after the other.

    A count is believed only as far as the file has bytes for it, so memory is bounded by its size.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._left, self._entries = file, size, 0

    def value(self, level: int) -> Any:
        """Read a value that is inside this many maps and lists."""
        kind, number = self._start()
        if kind == "value":
            return number
        if kind == "extension":
            return self._array(number, level)
        if kind in ("map", "list"):
            return self._container(kind, number, level)
        found = self._bytes(number)
        return found if kind == "bytes" else found.decode()

    def _start(self) -> tuple[str, Any]:
        """Read the kind of a value, and its length, or the value itself if it is short."""
        first = self._bytes(1)[0]
        for base, end, kind in SHORT:
            if base <= first < end:
                return kind, first - base
        if first in CONSTANTS:
            return "value", CONSTANTS[first]
        if 0xD4 <= first < 0xD9:
            return "extension", 1 << first - 0xD4
        if first not in SIZED:
            raise ValueError(f"MessagePack has no value that begins with {first}")
        kind, code = SIZED[first]
        return kind, struct.unpack(code, self._bytes(struct.calcsize(code)))[0]

    def _bytes(self, count: int) -> bytearray:
        """Read so many bytes."""
        found = bytearray(min(count, self._left + 1))
        self._left -= count
        if self._left < 0 or self._file.readinto(found) < count:  # type: ignore[attr-defined]
            raise EOFError
        return found

    def _container(self, kind: str, count: int, level: int) -> dict[str, Any] | list[Any]:
        """Read a map or a list with so many entries."""
        self._entries += count
        if self._entries > MOST_ENTRIES or level >= MOST_LEVELS:
            raise ValueError("it has too many entries")
        if kind == "list":
            return [self.value(level + 1) for _ in range(count)]
        found: dict[str, Any] = {}
        for _ in range(count):
            name = self.value(level + 1)
            if not isinstance(name, str) or name in found:
                raise ValueError("a name in it is not a text, or stands there twice")
            found[name] = self.value(level + 1)
        return found

    def _array(self, count: int, level: int) -> Tensor:
        """Read an array whose description and data have so many bytes."""
        kind = self._bytes(1)[0]
        end = self._left - count
        if kind not in ARRAYS:
            raise ValueError(f"it has an extension of type {kind}, which is not an array")
        try:
            shape, name, data = self.value(level + 1)
            dtype = DTYPES[f"torch.{name}"]
            are_sides = len(shape) <= MOST_AXES and all(type(n) is int and n >= 0 for n in shape)
            fits = are_sides and math.prod(shape) * dtype.itemsize == len(data)
        except (TypeError, KeyError) as error:
            raise ValueError("an array in it is not described") from error
        if not fits or self._left != end:
            raise ValueError("the data of an array do not have its size")
        if not data:
            return torch.empty(shape, dtype=dtype)
        return torch.frombuffer(data, dtype=dtype).reshape(shape)

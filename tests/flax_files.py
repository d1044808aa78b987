"""Writes small files as flax does: MessagePack with arrays as extensions."""

import struct
from typing import Any

import numpy as np
from torch import Tensor


def packed(value: Any) -> bytes:
    """MessagePack of maps, lists, texts, numbers and arrays, with 32 bits for each length."""
    if isinstance(value, Tensor):
        value = value.numpy()
    if isinstance(value, dict):
        inside = b"".join(packed(name) + packed(part) for name, part in value.items())
        return _start(0x80, 0xDF, len(value)) + inside
    if isinstance(value, list | tuple):
        return b"\xdd" + struct.pack(">I", len(value)) + b"".join(map(packed, value))
    if isinstance(value, str):
        return _start(0xA0, 0xDB, len(value.encode())) + value.encode()
    if isinstance(value, bytes):
        return b"\xc6" + struct.pack(">I", len(value)) + value
    if isinstance(value, int):
        return b"\xd3" + struct.pack(">q", value)
    assert isinstance(value, np.ndarray), type(value)
    inside = packed([list(value.shape), value.dtype.name, value.tobytes()])
    return b"\xc9" + struct.pack(">IB", len(inside), 1) + inside


def _start(small: int, large: int, count: int) -> bytes:
    """The first bytes of a value with so many parts."""
    return bytes([small + count]) if count < 16 else bytes([large]) + struct.pack(">I", count)


def nested(weights: dict[str, Any]) -> dict[str, Any]:
    """Make maps in maps of names with dots."""
    found: dict[str, Any] = {}
    for name, value in weights.items():
        *outer, last = name.split(".")
        inside = found
        for part in outer:
            inside = inside.setdefault(part, {})
        inside[last] = value
    return found

"""Writes small files as flax does: MessagePack with arrays as extensions."""

from typing import Any

import msgpack
import numpy as np
from torch import Tensor


def packed(value: Any) -> bytes:
    """MessagePack of maps, lists, texts, numbers and arrays."""
    return msgpack.packb(value, default=_array)


def _array(value: Tensor | np.ndarray) -> msgpack.ExtType:
    """An array as flax describes it."""
    array = value.numpy() if isinstance(value, Tensor) else value
    return msgpack.ExtType(1, packed([list(array.shape), array.dtype.name, array.tobytes()]))


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

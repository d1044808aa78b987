"""Reads what the page streams."""

import base64

import numpy as np


def byte_by_byte(text: str) -> np.ndarray:
    """Read numbers, uint32 (N,): the first byte of all of them comes first, then the second, ..."""
    return np.frombuffer(base64.b64decode(text), "u1").reshape(4, -1).T.copy().view("<u4")[:, 0]

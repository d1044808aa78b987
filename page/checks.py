"""Checks of what a browser sends: JSON of a bounded size, and values of the right type and range.

No request holds a path or the name of a file: models, runs and pictures are chosen by identifiers
that the server itself gave out.
"""

import base64
import binascii
import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from utils.errors import UserError, value_text

MOST_JSON = 4 << 20  # bytes of a request
MOST_UPLOAD = 16 << 20  # bytes of an image file
MOST_UPLOAD_PIXELS = 50_000_000  # 150 MB once it is decoded
MOST_TEXT = 200  # characters
MOST_NUMBER = 2**53  # as JavaScript counts
MOST_SEED = 2**63 - 1

Json = Mapping[str, Any]


class RequestError(UserError):
    """A request that this page never sends, or that asks for something impossible.

    Attributes:
        status: the HTTP status of the answer.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def parse_json(body: bytes) -> Json:
    """Read the JSON object in a request's body.

    Raises:
        RequestError: if it is something else.
    """
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise RequestError("the request is not valid JSON") from error
    if not isinstance(value, dict):
        raise RequestError("the request is not a JSON object")
    return value


def _refuse_constant(name: str) -> NoReturn:
    """Refuse NaN and infinity, which are not JSON."""
    raise ValueError(name)


def whole_number(values: Json, name: str, low: int, high: int, default: int | None = None) -> int:
    """Take a whole number out of a request.

    Args:
        values: the request, or an object in it.
        name: of the entry. It may be a text of digits, as those of an address are, and as
            JavaScript rounds large numbers.
        low: smallest value.
        high: largest value.
        default: what a missing entry means; None refuses that.

    Raises:
        RequestError: if it is missing, of another type or out of range.
    """
    value = given = values.get(name, default)
    # Python refuses to read thousands of digits.
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 20:
        value = int(value)
    if type(value) is not int or not low <= value <= high:
        shown = value_text(given)[:40]
        raise RequestError(f"{name} is {shown}; it must be a whole number from {low} to {high}")
    return value


def text(values: Json, name: str) -> str:
    """Take a short text out of a request; errors as in `whole_number`."""
    value = values.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= MOST_TEXT:
        raise RequestError(f"{name} must be a text of at most {MOST_TEXT} characters")
    return value


def entries(values: Json, name: str) -> Json:
    """Take an object out of a request; an empty one if it is missing.

    Raises:
        RequestError: if it is of another type.
    """
    value = values.get(name, {})
    if not isinstance(value, dict):
        raise RequestError(f"{name} must be an object")
    return value


def numbers(values: Json, name: str, high: int, most: int) -> list[int]:
    """Take a list of whole numbers from 0 to `high` out of a request.

    Args:
        values: the request, or an object in it.
        name: of the entry; without it the list is empty.
        high: largest number.
        most: how many numbers it may have.

    Raises:
        RequestError: if it is longer or something else.
    """
    value = values.get(name, [])
    if not isinstance(value, list) or len(value) > most:
        raise RequestError(f"{name} must be a list of at most {most} numbers")
    for one in value:
        if type(one) is not int or not 0 <= one <= high:
            raise RequestError(
                f"{name} has {value_text(one)[:40]}; it holds numbers from 0 to {high}"
            )
    return value


def array(values: Json, name: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Take an array out of a request: its bytes in base64.

    Args:
        values: the request, or an object in it.
        name: of the entry.
        dtype: such as "u1", or "<u2".
        shape: shape that it must have.

    Raises:
        RequestError: if it is missing or has not as many bytes.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    data = file_bytes(values, name)
    if len(data) != size:
        raise RequestError(f"{name} must be {size} bytes in base64")
    return np.frombuffer(data, dtype).reshape(shape)


def file_bytes(values: Json, name: str) -> bytes:
    """Take bytes in base64 out of a request; none if they are missing or written otherwise."""
    value = values.get(name)
    try:
        return base64.b64decode(value if isinstance(value, str) else "", validate=True)
    except (binascii.Error, ValueError):
        return b""


def encode(values: np.ndarray, dtype: str) -> str:
    """Write an array as `array` reads it."""
    return base64.b64encode(np.ascontiguousarray(values, dtype).tobytes()).decode()

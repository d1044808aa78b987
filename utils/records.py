"""Records: small pieces of data with a checksum, which the program writes and reads again.

The checksum is of the values and names of a record, so that a change is found when it is read. In
JSON it is one more entry, "checksum". Records of older versions have no checksum and are accepted
without one, unless the caller refuses them. Callers check types and ranges.
"""

import hashlib
import json
import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from utils.errors import UserError, failures_of, one_line
from utils.files import write_json_atomic

CHECKSUM = "checksum"


def checksum(value: Any) -> str:
    """Compute 16 hexadecimal digits of plain data; the order of names does not matter."""
    plain = json.loads(json.dumps(value))  # as it will be when read
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def finite(numbers: Mapping[str, float]) -> dict[str, float]:
    """Leave out what JSON cannot say: NaN and infinity."""
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def unsealed(value: Any) -> dict[str, Any]:
    """Verify plain data with their checksum, and take it out.

    Raises:
        ValueError: if it is not a dictionary, or its checksum is wrong.
    """
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    contents = {name: entry for name, entry in value.items() if name != CHECKSUM}
    if value.get(CHECKSUM, checksum(contents)) != checksum(contents):
        raise ValueError("its checksum is that of something else")
    return contents


def write_record(path: Path, value: Mapping[str, Any]) -> None:
    """Write plain data with its checksum as JSON; errors as `atomic_write`."""
    # The checksum comes first, so that the file stays JSON if somebody removes this line.
    write_json_atomic(path, {CHECKSUM: checksum(value), **value})


def read_record(path: Path, known: Collection[str] | None = None) -> dict[str, Any]:
    """Read a file of `write_record`; return an empty dictionary if it does not exist.

    Args:
        path: the file.
        known: the allowed names; None allows any. Then a changed name "checksum" would pass for an
            entry of an older file.

    Raises:
        UserError: if the file cannot be read, is damaged or was edited.
    """
    if not path.is_file():
        return {}
    with failures_of(f"cannot read {path}"):
        content = path.read_bytes()
    try:
        value = unsealed(json.loads(content))
        for name in value:
            if known is not None and name not in known:
                raise ValueError(f"its entry {name!r} is unknown")
    except (ValueError, RecursionError) as error:
        raise UserError(
            f'{path} is damaged ({one_line(error)}); restore it, or remove its line "{CHECKSUM}" '
            "if you changed it yourself"
        ) from error
    return value


def record_line(value: Mapping[str, Any]) -> str:
    """Format plain data with its checksum as one line of JSON."""
    return json.dumps({**value, CHECKSUM: checksum(value)}) + "\n"


def read_record_lines(
    path: Path, is_valid: Callable[[dict[str, Any]], bool]
) -> tuple[list[dict[str, Any]], int]:
    """Read lines of `record_line`.

    Args:
        path: the file; a missing file has no lines.
        is_valid: checks the names, types and ranges of a line.

    Returns:
        The intact lines, and the number of the others.

    Raises:
        UserError: if the file cannot be read.
    """
    with failures_of(f"cannot read {path}"):
        lines = path.read_bytes().splitlines() if path.is_file() else []
    rows = [row for row in (read_line(line, is_valid) for line in lines) if row is not None]
    return rows, len(lines) - len(rows)


def read_line(line: bytes, is_valid: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
    """Read a line of `record_line`; None if it is not intact."""
    try:
        row = unsealed(json.loads(line))
    except (ValueError, RecursionError):
        return None
    return row if is_valid(row) else None

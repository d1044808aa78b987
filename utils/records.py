"""Records: what the program writes in small pieces and reads again, each with a checksum.

The checksum is of what a record says, so that a change of a value or of a name is noticed when it
is read. In JSON it is an entry beside the others, "checksum". Versions before wrote none: what has
no checksum is read as it is, unless a caller knows better. Callers check types and ranges.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from utils.errors import UserError, one_line
from utils.files import write_json_atomic

CHECKSUM = "checksum"
DIGEST_BYTES = hashlib.sha256().digest_size


def checksum(value: Any) -> str:
    """Compute 16 hexadecimal digits of plain data; the order of names does not matter."""
    plain = json.loads(json.dumps(value))  # as it will be read
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """Add the checksum to plain data."""
    return {**value, CHECKSUM: checksum(value)}


def unsealed(value: Any) -> dict[str, Any]:
    """Verify what `sealed` returned and take the checksum out.

    Raises:
        ValueError: if it is no dictionary, or the checksum is that of something else.
    """
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object")
    contents = {name: entry for name, entry in value.items() if name != CHECKSUM}
    if value.get(CHECKSUM, checksum(contents)) != checksum(contents):
        raise ValueError("its checksum is that of something else")
    return contents


def write_record(path: Path, value: Mapping[str, Any]) -> None:
    """Write plain data with its checksum as JSON; errors as `atomic_write`."""
    # First, so that the file stays JSON if somebody takes that line out.
    write_json_atomic(path, {CHECKSUM: checksum(value), **value})


def read_record(path: Path, known: Collection[str] | None = None) -> dict[str, Any]:
    """Read what `write_record` wrote; an empty dictionary if there is no file.

    Args:
        path: the file.
        known: the names that it may have; None takes any. Without them a changed name "checksum"
            would pass for an entry of a file of before.

    Raises:
        UserError: if the file is damaged, or was changed by hand.
    """
    if not path.is_file():
        return {}
    try:
        value = unsealed(json.loads(path.read_bytes()))
        for name in value:
            if known is not None and name not in known:
                raise ValueError(f"its entry {name!r} is unknown")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f'{path} is damaged ({one_line(error)}); restore it, or take its line "{CHECKSUM}" out '
            "if you changed it yourself"
        ) from error
    return value


def record_line(value: Mapping[str, Any]) -> str:
    """Format plain data with its checksum as one line of JSON."""
    return json.dumps(sealed(value)) + "\n"


def read_lines(
    path: Path, is_valid: Callable[[dict[str, Any]], bool]
) -> tuple[list[dict[str, Any]], int]:
    """Read lines that `record_line` made.

    Args:
        path: the file; without it there are no lines.
        is_valid: checks the names, types and ranges of a line.

    Returns:
        The lines that are intact, and the number of the others.

    Raises:
        UserError: if the file cannot be read.
    """
    try:
        lines = path.read_bytes().splitlines() if path.is_file() else []
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    rows = [row for row in (read_line(line, is_valid) for line in lines) if row is not None]
    return rows, len(lines) - len(rows)


def read_line(line: bytes, is_valid: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
    """Read a line that `record_line` made; None if it is not intact."""
    try:
        row = unsealed(json.loads(line))
    except (ValueError, RecursionError):
        return None
    return row if is_valid(row) else None


def sealed_bytes(content: bytes, about: str) -> bytes:
    """Add a digest to the content of a file.

    Args:
        content: what the file says.
        about: what it is part of and which part; it is in the digest, but not in the file.
    """
    return content + _digest(content, about)


def unsealed_bytes(stored: bytes, about: str) -> bytes:
    """Verify what `sealed_bytes` returned and take the digest off.

    Raises:
        ValueError: if the digest is that of something else.
    """
    content, digest = stored[:-DIGEST_BYTES], stored[-DIGEST_BYTES:]
    if digest != _digest(content, about):
        raise ValueError("its checksum is that of something else")
    return content


def _digest(content: bytes, about: str) -> bytes:
    """Compute the SHA-256 of content and of what it is about."""
    return hashlib.sha256(about.encode() + b"\0" + content).digest()

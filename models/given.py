"""Compares what the user says about a network with what its checkpoint says."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.errors import UserError, value_text


def refuse_contradictions(config: Any, given: Mapping[str, Any], source: Path | str) -> None:
    """Refuse a value that the user gave and that contradicts a checkpoint.

    Args:
        config: the config of the checkpoint, a config dataclass of a family.
        given: values by name of the field; names that the config does not have are ignored.
        source: path of the checkpoint, for the message.

    Raises:
        UserError: naming the field, its value, the file and the file's value.
    """
    for field, value in given.items():
        if hasattr(config, field) and not config.agrees(field, value):
            name = f"{type(config).__name__}.{field}"
            raise UserError(
                f"`{name}` {value_text(value)} contradicts {source}, which says "
                f"{value_text(getattr(config, field))}; leave it out{config.contradiction_hint}"
            )

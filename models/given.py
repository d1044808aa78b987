"""Checks the network fields that the user set against the network's file."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from models.interfaces import TokenizerNetwork, Transformer
from models.shapes import NetworkShape
from utils.errors import UserError, value_text
from utils.size import size_text

Network = TypeVar("Network", TokenizerNetwork, Transformer)


@dataclass(frozen=True)
class Given:
    """The config fields that the user set, with their values, for each network."""

    tokenizer: Mapping[str, Any] = field(default_factory=dict)
    transformer: Mapping[str, Any] = field(default_factory=dict)


def refuse_unknown(config: type[NetworkShape], given: Mapping[str, Any], network: str) -> None:
    """Refuse fields that the networks of a family do not have.

    Args:
        network: names the network in the message.

    Raises:
        UserError: naming the field and the family.
    """
    known = {one.name for one in fields(config)}  # type: ignore[arg-type] # it is a dataclass
    for name, value in given.items():
        if name not in known and not hasattr(config, name):
            raise UserError(
                f"`{config.kind}.{name}` {value_text(value)}: {network} belongs to the "
                f"family {config.family}, which has no such field; leave it out"
            )


def refuse_contradictions(
    config: NetworkShape, given: Mapping[str, Any], source: Path | str
) -> None:
    """Refuse a value from the user that contradicts the checkpoint.

    Raises:
        UserError: naming the field, its value, the file and the file's value.
    """
    refuse_unknown(type(config), given, f"the {config.kind} of {source}")
    for name, value in given.items():
        if not config.agrees(name, value):
            own = getattr(config, name)
            own = size_text(own) if name == "image_size" else own
            raise UserError(
                f"`{config.kind}.{name}` {value_text(value)} contradicts {source}, which says "
                f"{value_text(own)}; leave it out{config.contradiction_hint}"
            )


def checked(network: Network, path: Path, given: Mapping[str, Any]) -> Network:
    """Return a network that agrees with these fields; errors as in `refuse_contradictions`."""
    refuse_contradictions(network.config, given, path)
    return network

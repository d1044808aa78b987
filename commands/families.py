"""The families of new networks that the options choose, and their defaults."""

from dataclasses import fields
from typing import Any

from commands.flags import given_fields, options_of
from commands.options import OF_FIELD, OPTIONS
from commands.parser import CommandLine
from models.families.tables import family_named
from models.sampling import SamplingConfig
from models.shapes import refuse_unknown
from training.config import TrainingConfig
from utils.errors import FieldError

MADE_BY = {"tokenizer": "train_vae", "transformer": "train"}
"""The mode that makes a new network of each kind. The option named like the kind is the family."""


def config_of(kind: str, name: Any) -> Any:
    """Return the config class of a family.

    Raises:
        FieldError: if there is no such family.
    """
    try:
        return family_named(kind, name).config
    except ValueError as error:
        raise FieldError(kind, name, str(error)) from error


def with_defaults(line: CommandLine) -> CommandLine:
    """Fill in the defaults of the families of new networks.

    Raises:
        FieldError: if there is no such family.
    """
    for kind, mode in MADE_BY.items():
        if not line.asks_for(mode):
            continue
        config = config_of(kind, getattr(line, kind))
        own: dict[str, Any] = {one.name: one.default for one in fields(config)}
        values = {
            name: list(own[field]) if isinstance(own[field], tuple) else own[field]
            for field, name in options_of(config).items()
            if OPTIONS[name].default is OF_FIELD
        }
        named = options_of(TrainingConfig) | options_of(SamplingConfig)
        values |= {
            named[field]: config.usual[field] for field in named.keys() & config.usual.keys()
        }
        line = line.fill(values)
    return line


def new_config(kind: str, line: CommandLine) -> Any:
    """Return the config class of a new network.

    Raises:
        UserError: if there is no such family, or it does not have an option that the user gave.
    """
    config = config_of(kind, getattr(line, kind))
    refuse_unknown(config, given_fields(kind, line), f"the new {kind}")
    return config

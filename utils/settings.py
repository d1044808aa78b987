"""From the options of a command line to the config dataclasses of the models, and the reverse."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

from models.maskgit.config import (
    CUMULATIVE_SCHEDULES,
    SamplingConfig,
    TrainingConfig,
    TransformerConfig,
)
from models.vqgan.config import VQGANConfig, VQGANTrainingConfig
from utils.errors import UserError
from utils.options import Options

Config = TypeVar("Config")

# Fields that are not set by an option of their own name.
FIELD_OPTIONS: dict[type, dict[str, str]] = {
    TransformerConfig: {"embed_dim": "embed_dim_t", "dropout": "dropout_t"},
    TrainingConfig: {
        "epochs": "n_epochs",
        "warmup_epochs": "warmup",
        "label_drop": "drop_label",
        "schedule": "sched_mode",
    },
    SamplingConfig: {
        "num_steps": "step",
        "schedule": "sched_mode",
        "guidance": "cfg_w",
        "guidance_schedule": "cfg_schedule",
        "choice_temperature": "r_temp",
        "logit_scale": "sm_temp",
        "start_token": "mask_value",
    },
    VQGANConfig: {"image_size": "size"},
    VQGANTrainingConfig: {
        "epochs": "n_epochs_vae",
        "batch_size": "batch_size_vae",
        "lr": "lr_vae",
        "warmup_epochs": "warmup_vae",
        "betas": "betas_vae",
    },
}


def configure(kind: type[Config], options: Options, **known: Any) -> Config:
    """Build a config from the options.

    Args:
        kind: a config dataclass.
        options: the command line.
        **known: fields whose values are known from elsewhere.

    Raises:
        UserError: if the values do not fit together.
    """
    values = dict(known)
    for field, option in options_of(kind).items():
        if field not in known and hasattr(options.values, option):
            value = getattr(options, option)
            values[field] = tuple(value) if isinstance(value, list) else value
    if kind is TrainingConfig and values["schedule"] in CUMULATIVE_SCHEDULES:
        values["schedule"] = values["schedule"].removesuffix("-cumulative")
    config = kind(**values)
    if isinstance(config, TransformerConfig | VQGANConfig):
        checked(config.validate)
    return config


def checked(validate: Callable[..., None], *arguments: Any) -> None:
    """Call a config's check; what it finds wrong is the user's to mend.

    Raises:
        UserError: with the text of the ValueError.
    """
    try:
        validate(*arguments)
    except ValueError as error:
        raise UserError(str(error)) from error


def options_of(kind: type) -> dict[str, str]:
    """Field of a config dataclass -> option that sets it."""
    return {f.name: FIELD_OPTIONS[kind].get(f.name, f.name) for f in fields(kind)}


def option_values(config: Any) -> dict[str, Any]:
    """The options that give this config, with their values."""
    return {option: getattr(config, field) for field, option in options_of(type(config)).items()}


def given_fields(kind: type, options: Options) -> dict[str, Any]:
    """The fields of a config that were set by hand, with their values."""
    return {
        field: getattr(options, option)
        for field, option in options_of(kind).items()
        if option in options.given
    }


def same_value(given: Any, stored: Any) -> bool:
    """Whether two values of an option are the same; lists and tuples are not told apart."""
    if isinstance(given, list | tuple):
        return isinstance(stored, list | tuple) and list(given) == list(stored)
    return bool(given == stored)


def shown(value: Any) -> str:
    """The value of an option as one would write it."""
    return " ".join(map(str, value)) or "none" if isinstance(value, list | tuple) else str(value)

"""The stages of training: the options of each, and the families of their new networks."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from commands.flags import fills_of_kind, given_fields, options_of
from commands.option import OF_FIELD, Option, Resume
from commands.options import OPTIONS
from commands.parser import CommandLine
from models.family import refuse_unknown
from models.open import family_asked_for
from models.sampling import SamplingConfig
from training.config import DistillConfig, TrainingConfig, VQGANTrainingConfig


@dataclass(frozen=True)
class StageOptions:
    """The options that belong to a stage of training.

    Attributes:
        mode: name of the mode that trains it.
        config: config of its training. The options that fill it are the stage's options.
        makes: the kind of its new network, None without one. The option for its family, and the
            options that fill its config, are the stage's options too.
        reads: kinds of networks that it reads from files. If the user gives options that fill
            their configs, these say how to read another program's file.
    """

    mode: str
    config: type
    makes: str | None = None
    reads: tuple[str, ...] = ()

    @property
    def epochs(self) -> str:
        """Name of the option for the number of epochs."""
        return options_of(self.config)["epochs"]

    @property
    def reading(self) -> frozenset[str]:
        """Names of the options that may say how to read a file."""
        return frozenset(name for kind in self.reads for name, _ in fills_of_kind(kind))

    def kept(self, values: Mapping[str, Any], given: frozenset[str]) -> list[Option]:
        """List the options that a run of the stage keeps.

        These are the options of every run, those of the stage, and those that say how to read
        another program's file.

        Args:
            values: the values of all options, by name.
            given: names of the options that the user gave. The last kind is kept only if given.
        """
        names = {*options_of(self.config).values(), *(self.reading & given)}
        if self.makes is not None:
            family = values.get(self.makes, OPTIONS[self.makes].default_value)
            config = family_asked_for(self.makes, family).config
            names |= {self.makes, *options_of(config).values()}
        every_run = (Resume.RUN, Resume.FREE)
        return [o for o in OPTIONS.values() if o.resume in every_run or o.name in names]


STAGE_OPTIONS = {
    "vqgan": StageOptions("train_vae", VQGANTrainingConfig, makes="tokenizer"),
    "maskgit": StageOptions("train", TrainingConfig, makes="transformer", reads=("tokenizer",)),
    "student": StageOptions("distill", DistillConfig, reads=("tokenizer", "transformer")),
}


def with_defaults(line: CommandLine) -> CommandLine:
    """Fill in the defaults of the families of new networks.

    Raises:
        FieldError: if there is no such family.
    """
    for stage in STAGE_OPTIONS.values():
        if stage.makes is None or not line.asks_for(stage.mode):
            continue
        config = family_asked_for(stage.makes, getattr(line, stage.makes)).config
        own: dict[str, Any] = {one.name: one.default for one in fields(config)}
        values = {
            name: list(own[field]) if isinstance(own[field], tuple) else own[field]
            for field, name in options_of(config).items()
            if OPTIONS[name].default is OF_FIELD
        }
        named = options_of(stage.config) | options_of(SamplingConfig)
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
    config = family_asked_for(kind, getattr(line, kind)).config
    refuse_unknown(config, given_fields(kind, line), f"the new {kind}")
    return config

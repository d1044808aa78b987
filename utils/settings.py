"""From the options of a command line to the config dataclasses of the models, and the reverse."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from models.maskgit.config import (
    CUMULATIVE_SCHEDULES,
    NOISY_SAMPLERS,
    SamplingConfig,
    TrainingConfig,
    TransformerConfig,
)
from models.vqgan.config import VQGANConfig, VQGANTrainingConfig
from utils.errors import UserError
from utils.options import MODES, Options

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

# What a run of a stage is made of: another value makes another run.
STAGE_CONFIGS: dict[str, tuple[type, ...]] = {
    "vqgan": (VQGANConfig, VQGANTrainingConfig),
    "maskgit": (TransformerConfig, TrainingConfig),
}
STAGE_MODES = {"vqgan": "train_vae", "maskgit": "train"}
EXTENDABLE = {"vqgan": "n_epochs_vae", "maskgit": "n_epochs"}
# What a resumed run goes on with, but may change on the way: where files are, when to save, what to
# tell, and in how many parts to compute, which changes no more than the last bits.
CHANGEABLE = (
    "checkpoint_vae", "perceptual_vgg", "data_dir", "cache_dir", "num_workers", "no_wandb",
    "sample_and_save_freq", "save_every_minutes", "keep_checkpoints", "grad_accum",
    "deterministic", "num_samples", "labels",
    *({*FIELD_OPTIONS[SamplingConfig].values(), "sampler"} - {"sched_mode"}),
)  # fmt: skip
MADE_FROM = "made_from"  # entry of a run's record beside its options: the data it depends on
PATHS = ("checkpoint_vae", "perceptual_vgg", "remap", "data_dir", "cache_dir")


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


def idle_options(options: Options) -> list[str]:
    """Options given by hand that no mode of the command line looks at."""
    modes = {mode for mode in MODES if getattr(options, mode)}
    looking = {name: modes_that_look_at(name) for name in options.given}
    idle = {name for name, those in looking.items() if those and not those & modes}
    if options.sampler not in NOISY_SAMPLERS and not options.sweep:
        idle |= options.given & {"r_temp"}
    return sorted(idle)


def modes_that_look_at(name: str) -> set[str]:
    """The modes in which an option has an effect; an empty set if that is all of them."""
    training, generating = {"train_vae", "train"}, {"train", "sample", "edit", "evaluate", "sweep"}
    loading = {"reconstruct", "show_plan", "sample", "edit", "evaluate", "sweep", "export"}
    table: tuple[tuple[set[str], Iterable[str]], ...] = (
        ({"train_vae"}, options_of(VQGANTrainingConfig).values()),
        ({"train"}, options_of(TrainingConfig).values()),
        (training, ("resume", "sample_and_save_freq", "save_every_minutes", "keep_checkpoints")),
        (generating | {"show_plan"}, options_of(SamplingConfig).values()),
        (generating, ("labels", "num_samples", "first_image", "batch_size", "seed")),
        (loading, ("checkpoint",)),
        (loading | {"train"}, options_of(TransformerConfig).values()),
        ({"sample"}, ("save_steps",)),
        ({"edit"}, ("init_image", "mask_box", "mask_image", "outpaint", "mask_grow")),
        ({"edit"}, ("no_composite",)),
        ({"reconstruct"}, ("batch_size_vae",)),
        ({"evaluate"}, ("images", "perceptual_vgg")),
        ({"evaluate", "sweep"}, ("reference", "feature_net", "inception_weights")),
    )
    return set().union(*(modes for modes, names in table if name in names))


def reject_contradictions(
    kind: type, given: Mapping[str, Any], stored: Mapping[str, Any], source: Path | str
) -> None:
    """Refuse a value given by hand that is not what a checkpoint says.

    Args:
        kind: a config dataclass.
        given: fields of it that were set by hand, see `given_fields`.
        stored: fields of the checkpoint's.
        source: the checkpoint.

    Raises:
        UserError: naming option, value, file and the file's value.
    """
    way_out = "leave the option out"
    if kind is VQGANConfig:
        way_out += ", or train another tokenizer with --train_vae"
    for field, value in given.items():
        # A remap is given as a file; loading the tokenizer compares what is in it.
        if field in stored and field != "remap" and not _agrees(field, value, stored):
            raise UserError(
                f"--{options_of(kind)[field]} {_shown(value)} contradicts {source}, which says "
                f"{_shown(stored[field])}; {way_out}"
            )


def check_n_classes(options: Options, num_classes: int, source: Path | str) -> None:
    """Refuse an --n_classes given by hand that is not the number there is."""
    if "n_classes" in options.given and options.n_classes != num_classes:
        raise UserError(
            f"--n_classes {options.n_classes} contradicts {source}, which has {num_classes} "
            "classes; leave the option out"
        )


def check_start_token(options: Options, config: TransformerConfig) -> None:
    """Refuse a --mask-value that is no token."""
    last = config.mask_token
    if options.mask_value is not None and options.mask_value > last:
        raise UserError(
            f"--mask-value {options.mask_value}: the tokens are 0 to {last - 1} and the mask token "
            f"{last}; a negative value starts from random tokens"
        )


def run_options(options: Options, stage: str) -> dict[str, Any]:
    """The options that a run of a stage is made of, by name; files with their whole paths."""
    names = ["dataset", "size", "precision", *CHANGEABLE]
    if stage == "maskgit":  # what was said about the tokenizer
        names += options.given & {*options_of(VQGANConfig).values()}
    names += [o for kind in STAGE_CONFIGS[stage] for o in options_of(kind).values()]
    settings = {name: getattr(options, name) for name in names if hasattr(options.values, name)}
    for name in PATHS:
        if settings.get(name):
            settings[name] = str(Path(settings[name]).absolute())
    return settings


def without_paths(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that may leave the machine."""
    return {name: value for name, value in settings.items() if name not in PATHS}


def planned_options(options: Options, stored: Mapping[str, Any]) -> Options:
    """Take over what was said about a run that has not begun, where nothing else is said now."""
    return options.replace(
        **{k: v for k, v in stored.items() if k not in options.given and k != MADE_FROM}
    )


def resumed_options(
    options: Options, stored: Mapping[str, Any], stage: str, source: Path
) -> Options:
    """Take over the options of the run that is continued.

    More epochs are welcome, and so is what makes no other run (CHANGEABLE); anything else is
    refused.

    Raises:
        UserError: naming the option, its value and the run's.
    """
    now = run_options(options, stage)
    taken = {}
    for name, value in stored.items():
        if name == MADE_FROM:
            continue
        if name not in options.given:
            taken[name] = value
        elif name in CHANGEABLE or (name == EXTENDABLE[stage] and now[name] >= value):
            continue
        elif not _equal(now[name], value):
            raise UserError(
                f"--{name} {_shown(getattr(options, name))} is not what the run in {source} was "
                f"started with ({_shown(value)}); leave it out, or start another --run_name"
            )
    # A tokenizer of others is read with the options that were given for it.
    about_tokenizer = taken.keys() & {*options_of(VQGANConfig).values()}
    given = options.given | (about_tokenizer if stage == "maskgit" else frozenset())
    return replace(options.replace(**taken), given=given)


def _agrees(field: str, value: Any, stored: Mapping[str, Any]) -> bool:
    if field == "attn_resolutions":  # those that never occur leave no trace
        shape = VQGANConfig(image_size=stored["image_size"], ch_mult=tuple(stored["ch_mult"]))
        occurring = set(shape.resolutions)
        return set(value) & occurring == set(stored[field]) & occurring
    return _equal(value, stored[field])


def _equal(given: Any, stored: Any) -> bool:
    if isinstance(given, list | tuple):
        return isinstance(stored, list | tuple) and list(given) == list(stored)
    return bool(given == stored)


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) or "none" if isinstance(value, list | tuple) else str(value)

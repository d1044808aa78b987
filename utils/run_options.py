"""The options of a run: what is kept of them, what a resumed run takes over, what may change."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from models.maskgit.config import SamplingConfig, TrainingConfig, TransformerConfig
from models.vqgan.config import VQGANConfig, VQGANTrainingConfig
from utils.errors import UserError
from utils.options import Options
from utils.settings import options_of, same_value, shown

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
    *(name for name in options_of(SamplingConfig).values() if name != "sched_mode"),
)  # fmt: skip
MADE_FROM = "made_from"  # entry of a run's record beside its options: the data it depends on
PATHS = ("checkpoint_vae", "perceptual_vgg", "remap", "data_dir", "cache_dir")


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
        elif not same_value(now[name], value):
            raise UserError(
                f"--{name} {shown(getattr(options, name))} is not what the run in {source} was "
                f"started with ({shown(value)}); leave it out, or start another --run_name"
            )
    # A tokenizer of others is read with the options that were given for it.
    about_tokenizer = taken.keys() & {*options_of(VQGANConfig).values()}
    given = options.given | (about_tokenizer if stage == "maskgit" else frozenset())
    return replace(options.replace(**taken), given=given)

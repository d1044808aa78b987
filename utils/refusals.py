"""What a command line cannot mean: found and told before anything is done."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from models.maskgit.config import (
    NOISY_SAMPLERS,
    SamplingConfig,
    TrainingConfig,
    TransformerConfig,
)
from models.vqgan.config import VQGANConfig, VQGANTrainingConfig
from utils.distributed import Processes
from utils.errors import UserError
from utils.options import MODES, Options
from utils.settings import options_of, same_value, shown

SHARED_MODES = ("train", "sample", "dry_run")  # those that several processes may run


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


def check_processes(processes: Processes, mode: str) -> None:
    """Refuse several processes for a mode that uses one."""
    if processes.size > 1 and mode not in SHARED_MODES:
        raise UserError(
            f"--{mode} uses one process and this is one of {processes.size} (WORLD_SIZE): run it "
            "alone first, without torchrun"
        )


def check_training(options: Options) -> None:
    """Refuse to train what a file is given for, and parts of a step without images."""
    for mode, result, batch_size in (
        ("train", "checkpoint", "batch_size"),
        ("train_vae", "checkpoint_vae", "batch_size_vae"),
    ):
        if not getattr(options, mode):
            continue
        if getattr(options, result):
            raise UserError(
                f"--{result} names a trained model and --{mode} makes one: leave one of them out"
            )
        images = getattr(options, batch_size)
        if options.grad_accum > images:
            raise UserError(
                f"--grad_accum {options.grad_accum}: --{batch_size} has only {images} images"
            )


def check_edit(options: Options) -> None:
    """Refuse an --edit that does not say of what, or what of it."""
    if options.init_image is None:
        raise UserError("--edit needs --init_image: a file, or <dataset>:<index>")
    if not (options.mask_box or options.mask_image or options.outpaint):
        raise UserError("--edit needs what to make anew: --mask_box, --mask_image or --outpaint")
    for name in ("init_image", "mask_image"):
        file = getattr(options, name)
        if file and ":" not in file and not Path(file).is_file():
            raise UserError(f"--{name} {file}: there is no such file")
    if options.save_steps:
        raise UserError("--save_steps shows how --sample decodes; --edit has no such picture")


def check_evaluate(options: Options) -> None:
    """Refuse an --evaluate of what is not there."""
    if not options.images:
        return
    if options.evaluate == "tokenizer":
        raise UserError("--evaluate tokenizer reconstructs real images; leave --images out")
    are_made_first = options.sample or options.edit or options.reconstruct
    if not are_made_first and not Path(options.images).exists():
        raise UserError(f"--images {options.images}: there is no such folder or file")


def memory_hint(options: Options) -> str:
    """What to say where memory does not suffice."""
    return (
        f"out of memory at batch size {options.batch_size} (--batch_size_vae "
        f"{options.batch_size_vae} in stage 1), --size {options.size or 'of the dataset'}: lower "
        "the batch size, raise --grad_accum, or take a smaller --size or model"
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
                f"--{options_of(kind)[field]} {shown(value)} contradicts {source}, which says "
                f"{shown(stored[field])}; {way_out}"
            )


def _agrees(field: str, value: Any, stored: Mapping[str, Any]) -> bool:
    if field == "attn_resolutions":  # those that never occur leave no trace
        shape = VQGANConfig(image_size=stored["image_size"], ch_mult=tuple(stored["ch_mult"]))
        occurring = set(shape.resolutions)
        return set(value) & occurring == set(stored[field]) & occurring
    return same_value(value, stored[field])

"""--train_vae: its Job; MaskGIT.py runs it."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands.families import new_config
from commands.flags import configure
from commands.parser import CommandLine
from commands.request import Request
from commands.resume import run_record
from commands.training_jobs import (
    TrainingJob,
    check_trained_mode,
    log_small_dataset,
    loop_config,
    made_from_images,
    open_splits,
    wants_wandb,
)
from models.vqgan.config import VQGANConfig
from models.vqgan.foreign import read_remap
from models.vqgan.network import VQModel
from training.config import VQGANTrainingConfig
from utils.errors import FieldError, UserError, value_text
from utils.size import size_text
from utils.weights import count_parameters

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainVaeJob(TrainingJob):
    """A VQ-GAN to train."""

    config: VQGANConfig
    training: VQGANTrainingConfig


def check(line: CommandLine) -> None:
    """Refuse options that contradict --train_vae or each other."""
    check_trained_mode(line, "train_vae", "checkpoint_vae", "batch_size_vae", "n_epochs_vae")


def resolve(request: Request) -> TrainVaeJob:
    """Open the images, and make all configs of the training.

    Raises:
        UserError: if the options do not fit together, or do not fit the dataset.
    """
    line, data = request.line, request.data()
    config = _new_config(request)
    training = configure(VQGANTrainingConfig, line)
    training.validate(config)
    data.check_workers(line.batch_size_vae)
    splits = open_splits(request, data, "vqgan")
    made_from = made_from_images(request, splits, "vqgan")
    loop = loop_config(request, "train_vae", splits.train, training.epochs, training.batch_size)
    log_small_dataset(splits.train, training.batch_size, "--batch_size_vae")
    job = TrainVaeJob(
        run=request.run(),
        machine=request.machine,
        splits=splits,
        data=data,
        loop=loop,
        record=run_record(
            line.replace(size=size_text(data.size)),
            "vqgan",
            made_from,
            request.continued.get("vqgan"),
        ),
        use_wandb=wants_wandb(request),
        config=config,
        training=training,
    )
    _log_late_discriminator(job)
    return job


def describe(job: TrainVaeJob) -> dict[str, Any]:
    """Return what --dry_run prints about this Job."""
    count, batch = len(job.splits.train), job.loop.images_per_step
    steps = job.steps_per_epoch * job.loop.epochs
    return {
        "VQ-GAN": f"{count_parameters(VQModel(job.config)) / 1e6:.2f} M parameters",
        "steps": f"{steps} of {batch} images, {count} in all",
    }


def _new_config(request: Request) -> VQGANConfig:
    """Make the config of the VQ-GAN; errors as in `resolve`."""
    line, data = request.line, request.data()
    if new_config("tokenizer", line) is not VQGANConfig:
        reason = f"this program trains {VQGANConfig.family}; name others with `checkpoint_vae`"
        raise FieldError("tokenizer", line.tokenizer, reason)
    config = configure(
        VQGANConfig,
        line,
        image_size=data.size,
        image_channels=data.spec.channels,
        remap=read_remap(Path(line.remap), line.n_embed) if line.remap else None,
    )
    config.validate()
    # An attention resolution that does not occur is an error only if the user gave it.
    unused = config.unused_attn_resolutions()
    if unused:
        text = (
            f"--attn_resolutions {unused[0]} never occurs: the feature maps are "
            f"{value_text(config.resolutions)}"
        )
        if "attn_resolutions" in line.given:
            raise UserError(text)
        log.info("%s pixels wide; only the middle blocks have attention", text)
    return config


def _log_late_discriminator(job: TrainVaeJob) -> None:
    """Log a line if the run ends before the first step with the discriminator."""
    start, steps = job.training.disc_start, job.steps_per_epoch * job.loop.epochs
    if job.training.disc_weight and start >= steps and job.loop.ends_at is None:
        log.info("--disc_start %d: the run ends before that, after %d steps", start, steps)

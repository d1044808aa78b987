"""--train_vae: its Job; MaskGIT.py runs it."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from commands.flags import configure
from commands.init import ENCODER, Origin, fields_without_option, kept_origin, shaped_as
from commands.parser import CommandLine
from commands.request import Request
from commands.resume import run_record
from commands.stages import new_config
from commands.tokenizer_source import read_origin
from commands.training_jobs import (
    TrainingJob,
    check_training,
    loop_config,
    open_splits,
)
from commands.trial import cost_of_steps, cost_of_training
from models.open import load_tokenizer
from models.perceptual import has_vgg_weights
from models.tokenizer import Tokenizer
from models.vqgan.config import VQGANConfig, read_remap
from models.vqgan.network import VQModel
from training.config import VQGANTrainingConfig
from training.runs import has_steps_left, steps_made
from training.vqgan_stage import VQGANStage, freeze_vqgan
from utils.checkpoint import load_checkpoint, on_meta
from utils.errors import FieldError, UserError, counted, value_text
from utils.size import size_of
from utils.weights import count_parameters

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainVaeJob(TrainingJob):
    """A VQ-GAN to train.

    Attributes:
        start: weights of a trained VQ-GAN that it starts from; empty without one.
        encoder_fingerprint: that of the trained one, if the training keeps its tokens; else None.
    """

    config: VQGANConfig
    training: VQGANTrainingConfig
    start: Mapping[str, Tensor]
    encoder_fingerprint: str | None

    @cached_property
    def goes_on(self) -> bool:
        """Whether the training has steps left, so that the VQ-GAN will be another one."""
        return has_steps_left("vqgan", self.run, self.record, self.num_steps)

    def writes_tokenizer(self) -> bool:
        """Whether it will write the VQ-GAN: one that goes on, or is missing or damaged."""
        try:
            load_checkpoint(self.run.tokenizer, "vqgan")
        except UserError:
            return True
        return self.goes_on


def complete(line: CommandLine) -> CommandLine:
    """Let --init and --freeze mean the VQ-GAN if the command trains no transformer.

    Raises:
        UserError: if both spellings are given.
    """
    if line.asks_for("train"):
        return line
    for option in ("init", "freeze"):
        twin = f"{option}_vae"
        if option in line.given and twin in line.given:
            raise UserError(f"--{option} and --{twin} are the same here: give one of them")
        if option in line.given:
            line = line.replace(**{twin: getattr(line, option)})
            line = replace(line, given=line.given | {twin})
    return line


def check(line: CommandLine) -> None:
    """Refuse options that contradict --train_vae or each other."""
    check_training(line, "vqgan", "checkpoint_vae")


def ignores(line: CommandLine) -> set[str]:
    """Name the options of losses that have no weight."""
    idle = set() if line.disc_weight else {"disc_start"}
    return idle if line.perceptual_weight else idle | {"perceptual_vgg"}


def resolve(request: Request) -> TrainVaeJob:
    """Open the images, and make all configs of the training.

    Raises:
        UserError: if the options do not fit together, or do not fit the dataset.
    """
    origin = _origin(request)
    request = request if origin is None else _shaped_as(origin, request)
    line, data = request.line, request.data()
    config = _new_config(request, origin)
    training = configure(VQGANTrainingConfig, line)
    training.validate_for(config)
    network = on_meta(lambda: VQModel(config))
    freeze_vqgan(network, training)
    start = _start(origin, network, training) if origin else {}
    data.check_workers(line.batch_size_vae)
    splits = open_splits(request, data, "vqgan")
    kept = (
        {ENCODER: _kept_encoder(origin, network, start), **origin.made_from(config)}
        if origin
        else kept_origin(request, "vqgan")
    )
    job = TrainVaeJob(
        run=request.run(),
        machine=request.machine,
        splits=splits,
        data=data,
        loop=loop_config(line, "vqgan", training, len(splits.train)),
        record=run_record(request, line, "vqgan", splits.made_from | kept, data.size, splits.files),
        config=config,
        training=training,
        start=start,
        encoder_fingerprint=kept.get(ENCODER),
    )
    _log_late_discriminator(job)
    return job


def describe(job: TrainVaeJob) -> dict[str, Any]:
    """Return what --dry_run prints about this Job."""
    count, batch = len(job.splits.train), job.loop.images_per_step
    return {
        "VQ-GAN": f"{count_parameters(VQModel(job.config)) / 1e6:.2f} M parameters",
        "steps": f"{job.length} of {counted(batch, 'image')}, {count} in all",
        "stage 1 takes": _cost(job),
    }


def _cost(job: TrainVaeJob) -> str:
    """Measure what the training needs."""
    training, notes, loop = replace(job.training, grad_accum=1), "", job.loop
    if training.perceptual_weight and not has_vgg_weights(training.perceptual_vgg):
        training = replace(training, perceptual_weight=0.0)
        notes = "; more with the perceptual loss, whose weights are not on this machine"

    def stage(count: int) -> VQGANStage:
        images = torch.rand(count, job.config.image_channels, *job.config.image_size) * 2 - 1
        return VQGANStage(
            job.config, training, lambda epoch, first: repeat(images), lambda: iter([images]),
            job.steps_per_epoch, device=job.machine.device, precision=job.machine.precision,
            checkpoint_entries={},
        )  # fmt: skip

    step = cost_of_steps(stage, loop.images_per_step, job.training.grad_accum, job.machine.device)
    made = steps_made("vqgan", job.run, job.record)
    return cost_of_training(step, job.num_steps, made, loop, len(job.splits.validation)) + notes


def _origin(request: Request) -> Origin | None:
    """Open the VQ-GAN of --init_vae; None without one, or if the run continues.

    Raises:
        UserError: if the file holds no VQ-GAN.
    """
    line = request.line
    if line.init_vae is None or "vqgan" in request.continued:
        return None
    path, _, digest = read_origin(request, line.init_vae)
    network = load_tokenizer(path, request.data().size).network
    if type(network.config) is not VQGANConfig:
        raise UserError(
            f"{path} holds a tokenizer of the family {network.config.family}; --train_vae trains "
            f"only {VQGANConfig.family}"
        )
    if network.config.remap is not None and not line.remap:
        raise UserError(
            f"the VQ-GAN in {path} uses only some of its codes: give their list as --remap"
        )
    return Origin(path, digest, network)


def _shaped_as(origin: Origin, request: Request) -> Request:
    """Fill in the shape of a VQ-GAN; at another image size, attention stays in the same levels."""
    config: Any = origin.network.config
    old = min(config.image_size)
    new = min(size_of(request.line.size)) if request.line.size else old
    levels = tuple(side * new // old for side in config.attn_resolutions)
    line = shaped_as(request.line, replace(config, attn_resolutions=levels))
    return replace(request, line=line)


def _start(origin: Origin, network: VQModel, training: VQGANTrainingConfig) -> Mapping[str, Tensor]:
    """Choose the weights to start from; errors as in `Origin.start`."""
    start = origin.start(network, network.config)
    layers = network.named_modules()
    convolutions = {f"{name}.weight" for name, layer in layers if isinstance(layer, nn.Conv2d)}
    if training.linear_start and convolutions <= start.keys():
        log.warning("no effect here: `linear_start`, as %s has all convolutions", origin.path)
    weights = origin.network.weights_for(network.config)  # with the codes that --remap names
    return {name: weights[name] for name in start}


def _kept_encoder(origin: Origin, network: VQModel, start: Mapping[str, Tensor]) -> str | None:
    """Return the fingerprint of the encoder if the training keeps its tokens; else None."""
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    settings, weights = network.parts_of_encoder()
    old_settings, old_weights = origin.network.parts_of_encoder()
    same = (settings, weights.keys()) == (old_settings, old_weights.keys())
    keeps = same and weights.keys() <= start.keys() and not weights.keys() & trained
    return Tokenizer(origin.network).encoder_fingerprint if keeps else None


def _new_config(request: Request, origin: Origin | None) -> VQGANConfig:
    """Make the config of the VQ-GAN; errors as in `resolve`."""
    line, data = request.line, request.data()
    if new_config("tokenizer", line) is not VQGANConfig:
        reason = f"this program trains {VQGANConfig.family}; name others with `checkpoint_vae`"
        raise FieldError("tokenizer", line.tokenizer, reason)
    config = configure(
        VQGANConfig,
        line,
        **fields_without_option(request, "vqgan", VQGANConfig, origin)
        | {
            "image_size": data.size,
            "image_channels": data.spec.channels,
            "remap": read_remap(Path(line.remap), line.n_embed) if line.remap else None,
        },
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
    start, steps = job.training.disc_start, job.num_steps
    if job.training.disc_weight and start >= steps and job.loop.ends_at is None:
        text = "--disc_start %d: the run ends before that, after %s"
        log.info(text, start, counted(steps, "step"))

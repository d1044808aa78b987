"""Shared by the Jobs of --train_vae and --train."""

import logging
from dataclasses import dataclass

from commands.flags import configure
from commands.parser import CommandLine
from commands.request import Data, Machine
from data.images import ImageDataset
from training.config import LoopConfig
from training.run_folder import RunFolder
from training.runs import RunRecord
from utils.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Splits:
    """The images of both splits of a dataset.

    Attributes:
        train: the images to train on.
        validation: the images to validate on.
    """

    train: ImageDataset
    validation: ImageDataset


@dataclass(frozen=True)
class TrainingJob:
    """What the Jobs of both stages hold.

    Attributes:
        run: the run folder.
        machine: device, precision and processes.
        images: images to train and to validate on.
        data: their dataset.
        loop: settings of the training loop.
        record: what config.json keeps about the stage.
        use_wandb: whether Weights & Biases gets the metrics.
    """

    run: RunFolder
    machine: Machine
    images: Splits
    data: Data
    loop: LoopConfig
    record: RunRecord
    use_wandb: bool


def open_splits(data: Data) -> Splits:
    """Open both splits of a dataset; errors as in `Data.open`."""
    return Splits(data.open("train"), data.open("validation"))


def loop_config(
    line: CommandLine, images: ImageDataset, epochs: int, batch_size: int
) -> LoopConfig:
    """Make the settings of the loop; a step has at most all images of the dataset."""
    per_step = min(batch_size, len(images))
    return configure(LoopConfig, line, epochs=epochs, images_per_step=per_step)


def log_small_dataset(images: ImageDataset, batch_size: int, flag: str) -> None:
    """Log a line if the dataset is smaller than a batch, so that an epoch is one batch."""
    if len(images) < batch_size:
        log.info(
            "%s %d: there are only %d images, so an epoch is one batch",
            flag,
            batch_size,
            len(images),
        )


def check_trained_mode(line: CommandLine, mode: str, result: str, batch_size: str) -> None:
    """Refuse a trained model next to a mode that trains one, and parts of a batch without images.

    Args:
        line: the command line.
        mode: name of the mode, "train_vae" or "train".
        result: name of the option that takes a model of the kind that the mode makes.
        batch_size: name of the option for the images of a step.

    Raises:
        UserError: naming the option and its value.
    """
    if getattr(line, result):
        raise UserError(
            f"--{result} names a trained model and --{mode} makes one: leave one of them out"
        )
    images = getattr(line, batch_size)
    if line.grad_accum > images:
        raise UserError(f"--grad_accum {line.grad_accum}: --{batch_size} has only {images} images")

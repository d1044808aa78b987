"""Shared by the Jobs of --train_vae, --train and --distill."""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from commands.flags import configure, options_of
from commands.look import log_short_look
from commands.options import OPTIONS
from commands.parser import CommandLine
from commands.request import Data, Machine, Request
from commands.resume import class_order, former_classes
from commands.stages import STAGE_OPTIONS
from data.content import chosen_files, content_of, in_order, sizes_of_files
from data.datasets import OWN_IMAGES
from data.images import ImageDataset
from models.model import image_entries
from training.config import DistillConfig, LoopConfig, TrainingConfig, VQGANTrainingConfig
from training.run_folder import RunFolder
from training.run_record import RunRecord, check_made_from, read_files
from utils.errors import UserError, counted, named

log = logging.getLogger(__name__)

TOKENIZER_SHARE = 0.4  # of --minutes, if the same command also trains the transformer
USING_SHARE = 0.05  # of --minutes, for modes that use what is trained
FIRST_PICTURE = 90.0  # seconds until the first picture, if no epoch writes one before

SHOWN = {"images": "number", "class_names": "classes", "labels": "labels", "source": "contents"}
"""What messages call the entries of `content_of`."""


@dataclass(frozen=True)
class Splits:
    """The images of both splits of a dataset.

    Attributes:
        files: names and sizes of the image files, by split as in `RunRecord`; empty if none can be
            added to the set.
        made_from: the part of `RunRecord.made_from` that describes the images.
    """

    train: ImageDataset
    validation: ImageDataset
    files: Mapping[str, Mapping[str, int]]
    made_from: dict[str, Any]


@dataclass(frozen=True)
class StageJob:
    """The common part of the Jobs of all stages.

    Attributes:
        record: what config.json keeps about the stage.
    """

    run: RunFolder
    machine: Machine
    loop: LoopConfig
    record: RunRecord


@dataclass(frozen=True)
class TrainingJob(StageJob):
    """The common part of the Jobs of stages 1 and 2, which train on images."""

    splits: Splits
    data: Data

    @property
    def entries(self) -> dict[str, Any]:
        """What a checkpoint says about the images."""
        names, look = self.splits.train.class_names, self.data.preparation.look
        return image_entries(self.data.spec.name, names, look)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch; images that do not fill a batch are left out."""
        return len(self.splits.train) // self.loop.images_per_step

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the run, if no time limits it."""
        return self.steps_per_epoch * self.loop.epochs

    @property
    def length(self) -> str:
        """The number of optimizer steps in words."""
        is_limited = self.loop.ends_at is not None
        return "as many as --minutes allows" if is_limited else str(self.num_steps)


def open_splits(request: Request, data: Data, stage: str) -> Splits:
    """Open both splits of a dataset, with the classes in the order of the run to continue.

    Raises:
        UserError: as `Data.open`; if the processes have different images; or if the run to continue
            was made from other images or classes.
    """
    train, validation = data.open("train"), data.open("validation")
    if data.spec.num_classes is None and stage in request.continued:
        continues = request.continued[stage]
        order = class_order(continues, request.run(), stage, train.class_names)
        train, validation = in_order(train, order), in_order(validation, order)
    contents = {"training": content_of(train), "validation": content_of(validation)}
    request.machine.processes.check_equal(
        {
            f"{shown} of the {split} images": content[name]
            for split, content in contents.items()
            for name, shown in SHOWN.items()
        }
    )
    if data.spec.name == OWN_IMAGES and not request.jobs and request.machine.processes.is_main:
        log_short_look(train, validation)
    files = {}
    if data.spec.num_classes is None:
        files = {"training": sizes_of_files(train), "validation": sizes_of_files(validation)}
    splits = Splits(train, validation, files, _made_from(contents))
    if stage in request.continued:
        _check_images(request, splits, stage)
    return splits


def _made_from(contents: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the part of `RunRecord.made_from` for images with this `content_of`, by split."""
    entries = dict(contents["training"])
    if "validation" in contents:
        held_out = contents["validation"]
        entries["validation"] = f"{held_out['labels']} {held_out['source']}"
    return entries


def _check_images(request: Request, splits: Splits, stage: str) -> None:
    """Refuse images or classes that are not those of the run to continue."""
    run, continues = request.run(), request.continued[stage]
    if request.line.new_images:
        earlier = _images_before(splits, continues, run, stage)
        contents = {split: content_of(images) for split, images in earlier.items()}
        check_made_from(_made_from(contents), continues, run)
        _log_added(splits.train, earlier["training"])
        return
    try:
        check_made_from(splits.made_from, continues, run)
    except UserError as error:
        hint = "; if images were only added, --new_images goes on with them"
        raise UserError(f"{error}{hint if splits.files else ''}") from error


def _images_before(
    splits: Splits, continues: Mapping[str, Any], run: RunFolder, stage: str
) -> dict[str, ImageDataset]:
    """Return the images of both splits of a run before others were added.

    Images of validation may have been taken away; then it is left out. A set that holds out images
    itself may also train on one of them once it has more.

    Raises:
        UserError: naming an image that is missing or has changed.
    """
    before = read_files(run, stage)
    if not splits.files:
        raise UserError("--new_images: only the images of --dataset folder can become more")
    if not before:
        raise UserError(
            f"{run.path} does not list its images, as runs of earlier versions: resume it once "
            "with the images that it has, and add others after that"
        )
    names = former_classes(continues, run, stage) or splits.train.class_names
    earlier = {}
    for split, images in (("training", splits.train), ("validation", splits.validation)):
        now, sizes = splits.files[split], before.get(split, {})
        missing = sizes.keys() - now.keys()
        changed = [name for name, size in sizes.items() if now.get(name, size) != size]
        if changed or (missing and split == "training"):
            what = "has changed" if changed else "is no longer a training image"
            raise UserError(
                f"{min(changed or missing)} of the run in {run.path} {what}: with --new_images the "
                "images that a run has must stay as they are"
            )
        if sizes and not missing:
            earlier[split] = chosen_files(images, sizes.keys(), names)
    return earlier


def _log_added(images: ImageDataset, earlier: ImageDataset) -> None:
    """Log how many images each class has more than before."""
    now, before = (Counter(one.source.items.labels.tolist()) for one in (images, earlier))
    known = len(earlier.class_names)
    added = [
        f"{name} {now[label] - before[label]}{'' if label < known else ' (a new class)'}"
        for label, name in enumerate(images.class_names)
        if now[label] > before[label]
    ]
    more = len(images) - len(earlier)
    shown = counted(more, "new training image")
    log.info("%s: %s", shown, named(added) if added else "none were added")


def loop_config(
    line: CommandLine,
    stage: str,
    training: TrainingConfig | VQGANTrainingConfig | DistillConfig,
    num_images: int | None = None,
) -> LoopConfig:
    """Make the settings of the loop of a stage.

    Args:
        num_images: of the dataset; a batch is never larger. None without a dataset.
    """
    batch_size = training.batch_size
    if num_images is not None and num_images < batch_size:
        text = "`%s.batch_size` %d: only %s, so an epoch is one batch"
        log.info(text, type(training).__name__, batch_size, counted(num_images, "image"))
        batch_size = num_images
    return configure(
        LoopConfig,
        line,
        epochs=training.epochs,
        images_per_step=batch_size,
        **_time_limit(line, STAGE_OPTIONS[stage].mode),
        picture_at=line.began + FIRST_PICTURE,
    )


def _time_limit(line: CommandLine, mode: str) -> dict[str, float]:
    """Return when a mode begins, and must have ended so that the command keeps to --minutes."""
    limited = OPTIONS["minutes"].modes
    if line.minutes is None or mode not in limited:
        return {}
    minutes = line.minutes * (1 if line.modes[-1].name in limited else 1 - USING_SHARE)
    both = line.asks_for("train_vae") and line.asks_for("train")
    middle = TOKENIZER_SHARE * minutes if both else 0.0
    begin, end = (0.0, middle) if both and mode == "train_vae" else (middle, minutes)
    log.info("--minutes %g: --%s ends after %s", line.minutes, mode, counted(end, "minute"))
    return {"begins_at": line.began + 60 * begin, "ends_at": line.began + 60 * end}


def check_training(line: CommandLine, stage: str, result: str) -> None:
    """Refuse options that contradict each other in a mode that trains.

    These are a trained model beside it, more parts than images in a batch, and epochs beside the
    time that decides their number.

    Args:
        stage: "vqgan" or "maskgit".
        result: name of the option for a trained network of the stage.

    Raises:
        UserError: naming the option and its value.
    """
    of_stage = STAGE_OPTIONS[stage]
    if getattr(line, result):
        raise UserError(
            f"--{result} names a trained model and --{of_stage.mode} trains one: leave one of them "
            "out"
        )
    if line.new_images and not line.resume:
        raise UserError("--new_images is for a run that goes on: give --resume too")
    if line.minutes is not None and of_stage.epochs in line.given:
        epochs = f"--{of_stage.epochs} {getattr(line, of_stage.epochs)}"
        way_out = f"leave it or {epochs} out"
        if "minutes" not in line.given:  # it is that of the run
            init = options_of(of_stage.config)["init"]
            way_out = f"leave {epochs} out, or start another --run_name (--{init} takes its model)"
        raise UserError(f"--minutes {line.minutes:g} decides the number of epochs: {way_out}")
    batch_size = options_of(of_stage.config)["batch_size"]
    images = getattr(line, batch_size)
    if line.grad_accum > images:
        few = counted(images, "image")
        raise UserError(f"--grad_accum {line.grad_accum}: --{batch_size} has only {few}")

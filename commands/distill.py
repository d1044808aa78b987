"""--distill: train a student of a trained model that samples in few steps."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from commands.flags import configure, option_values, options_of
from commands.generation import (
    PREVIEW_IMAGES,
    describe_model,
    guided_if_possible,
    plan_table,
    preview_writer,
)
from commands.model_source import ModelSource, data_of, find_model
from commands.parser import CommandLine
from commands.request import Request
from commands.resume import kept_fields, run_record
from commands.training_jobs import StageJob, loop_config
from commands.trial import cost_of_steps, cost_of_training, disk_of
from data.datasets import DATASETS
from models.generator import ImageSeries
from models.labels import labels_in_turn
from models.model import image_entries
from models.sampling import SamplingConfig
from training import runs
from training.config import UPDATES_PER_EPOCH, DistillConfig
from training.distillation import VALIDATION_BATCHES, DistillationStage, student_settings
from training.run_record import check_made_from
from training.runs import steps_made
from utils.checkpoint import contents_of, is_own_format, read_checkpoint
from utils.errors import FieldError, UserError, counted
from utils.weights import count_parameters

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DistillJob(StageJob):
    """A student to train.

    Attributes:
        sampling: the sampling settings that the student is trained for.
    """

    teacher: ModelSource
    training: DistillConfig
    sampling: SamplingConfig


def complete(line: CommandLine) -> CommandLine:
    """Fill in what teacher and student decide: dataset, name of the run, sampling settings.

    Raises:
        UserError: if the teacher is missing or cannot be read.
    """
    for mode in ("train_vae", "train"):
        if line.asks_for(mode):
            raise UserError(f"--distill needs a finished model: give it after --{mode} has ended")
    if not line.checkpoint:
        raise UserError("--distill needs a teacher: name the file of a model with --checkpoint")
    dataset, path = line.dataset, Path(line.checkpoint)
    stored = None if "dataset" in line.given else read_checkpoint(path)
    if is_own_format(stored):
        found = contents_of(stored, path, "maskgit").get("dataset")
        dataset = found if isinstance(found, str) and found in DATASETS else dataset
    name = line.run_name or f"{dataset}_{line.distill}_step"
    settings = option_values(student_settings(int(line.distill)))
    return line.replace(dataset=dataset, run_name=name).fill(settings)


def resolve(request: Request) -> DistillJob:
    """Open the teacher, and make all configs of the training.

    Raises:
        UserError: if the teacher is missing, is a student itself or cannot be guided, or if the run
            to continue has another teacher.
    """
    line, source = request.line, find_model(request)
    if line.dataset != source.dataset:
        raise UserError(f"{source.path} was trained on {source.dataset}, not {line.dataset}")
    teacher = source.open()
    if teacher.made_for is not None:
        raise UserError(f"{source.path} is a student itself: name the model that taught it")
    run, continues = request.run(), request.continued.get("student")
    # The defaults are those of the teacher's family; a run that continues has its own options.
    named, usual = options_of(DistillConfig), source.shape.usual_students
    if continues is None:
        line = line.fill({named[field]: usual[field] for field in usual.keys() & named.keys()})
    line = guided_if_possible(line, DistillConfig, "teacher_guidance", source.shape.null_class)
    kept = kept_fields(request, "student", usual)
    training = configure(DistillConfig, line, num_steps=int(line.distill), **kept)
    if training.teacher_guidance and source.shape.null_class is None:
        reason = "this transformer has no trained null class, so it cannot be guided; use 0"
        raise FieldError("teacher_guidance", training.teacher_guidance, reason)
    sampling = student_settings(training.num_steps, training.start_share)
    sampling.validate_for(source.shape)
    # The networks that the run is made from.
    made_from = {
        "steps": training.num_steps,
        "teacher": teacher.fingerprint,
        "tokenizer": teacher.tokenizer.fingerprint,
        **kept,
    }
    if continues is not None:
        check_made_from(made_from, continues, run)
    return DistillJob(
        run=run,
        machine=request.machine,
        loop=loop_config(line, "student", training),
        record=run_record(
            request,
            line.replace(data_dir=str(data_of(request, source).folder)),
            "student",
            made_from,
            source.tokenizer.image_size,
        ),
        teacher=source,
        training=training,
        sampling=sampling,
    )


def run(job: DistillJob) -> None:
    """Train the student, from its last saved state if there is one."""
    teacher, machine = job.teacher.open(), job.machine
    names = teacher.class_names
    stage = DistillationStage(
        teacher.transformer,
        job.training,
        device=machine.device,
        precision=machine.precision,
        checkpoint_entries={
            **image_entries(teacher.dataset, names, teacher.look),
            "tokenizer": teacher.tokenizer.entry(),
        },
        preview=preview_writer(
            lambda student: replace(teacher, transformer=student),
            ImageSeries(
                labels_in_turn(None, names, range(len(names)), PREVIEW_IMAGES),
                job.sampling,
                job.training.seed,
                block_size=PREVIEW_IMAGES,
            ),
        ),
    )
    with runs.opened(stage, job.run, job.loop, job.record) as loop:
        loop.train()


def describe(job: DistillJob) -> dict[str, Any]:
    """Return what --dry_run prints about this Job."""
    teacher = job.teacher.open()
    parameters = count_parameters(teacher.transformer)
    tokenizer = count_parameters(teacher.tokenizer.network)
    images = counted(job.training.batch_size, "image")
    return {
        **describe_model(job.teacher),
        "transformer": f"{parameters / 1e6:.2f} M parameters",
        "steps": f"{job.loop.epochs * UPDATES_PER_EPOCH} of {images}",
        "distillation takes": _cost(job),
        # The state has three networks and the moments of two.
        "disk": disk_of(job.loop, 7 * parameters, 2 * parameters + tokenizer),
        "student": job.run.model,
        "plan": plan_table(job.sampling, job.teacher.shape.seq_len),
    }


def _cost(job: DistillJob) -> str:
    """Measure what the training needs."""
    images, device = job.training.batch_size, job.machine.device
    network = job.teacher.open().transformer

    def stage(count: int) -> DistillationStage:
        training = replace(job.training, batch_size=count)
        return DistillationStage(
            network, training, device=device, precision=job.machine.precision,
            checkpoint_entries={}, preview=lambda *_: None,
        )  # fmt: skip

    step, total = cost_of_steps(stage, images, 1, device), job.loop.epochs * UPDATES_PER_EPOCH
    made = steps_made("student", job.run, job.record)
    return cost_of_training(step, total, made, job.loop, VALIDATION_BATCHES * images)

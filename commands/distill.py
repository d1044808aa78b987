"""--distill: make of a trained model a student that needs few steps."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from commands.flags import configure
from commands.generation import describe_model, grid_columns
from commands.parser import CommandLine
from commands.request import Machine, Request
from commands.resume import run_record
from commands.sources import ModelSource, find_model
from commands.training_jobs import wants_wandb
from data.datasets import DATASETS
from models.decoding import make_plan
from models.labels import classes_in_turn
from models.open import as_transformer
from models.sampling import SamplingConfig
from training import runs
from training.config import UPDATES_PER_EPOCH, DistillConfig, LoopConfig
from training.distillation import DistillationStage, student_settings
from training.run_folder import RunFolder
from training.runs import RunRecord, check_made_from
from utils.checkpoint import contents_of, is_own_format
from utils.errors import UserError
from utils.pictures import save_grid
from utils.torch_file import read_torch_file

PREVIEW_IMAGES = 64


@dataclass(frozen=True)
class DistillJob:
    """A student to train.

    Attributes:
        teacher: the trained model.
        run: the student's run folder.
        machine: device and precision.
        training: settings of the training.
        sampling: the settings of sampling that the student is made for.
        loop: settings of the training loop.
        record: what config.json keeps about the stage.
        use_wandb: whether Weights & Biases gets the metrics.
    """

    teacher: ModelSource
    run: RunFolder
    machine: Machine
    training: DistillConfig
    sampling: SamplingConfig
    loop: LoopConfig
    record: RunRecord
    use_wandb: bool


def with_student_run(line: CommandLine) -> CommandLine:
    """Fill in what the teacher's file decides: the dataset, and the name of the student's run.

    Raises:
        UserError: if there is no teacher, or it cannot be read.
    """
    if line.asks_for("train"):
        raise UserError("--distill needs a finished model: give it after --train has ended")
    if not line.checkpoint:
        raise UserError("--distill needs the model that teaches: name its file with --checkpoint")
    dataset, path = line.dataset, Path(line.checkpoint)
    stored = read_torch_file(path)
    if "dataset" not in line.given and is_own_format(stored):
        found = contents_of(stored, path, "maskgit").get("dataset")
        dataset = found if isinstance(found, str) and found in DATASETS else dataset
    run_name = line.run_name or f"{dataset}_{line.distill}_step"
    return line.replace(dataset=dataset, run_name=run_name)


def resolve(request: Request) -> DistillJob:
    """Open the teacher, and make all configs of the training.

    Raises:
        UserError: if there is no teacher, or the run that is continued has another one.
    """
    line, teacher = request.line, find_model(request)
    training = configure(DistillConfig, line, num_steps=int(line.distill))
    sampling = student_settings(training.num_steps)
    sampling.validate_for(teacher.shape)
    run, continues = request.run(), request.continued.get("student")
    made_from = {"steps": training.num_steps, "teacher": teacher.open().fingerprint}
    if continues is not None:
        check_made_from(made_from, continues, run)
    return DistillJob(
        teacher=teacher,
        run=run,
        machine=request.machine,
        training=training,
        sampling=sampling,
        loop=configure(
            LoopConfig, line, epochs=training.epochs, images_per_step=training.batch_size
        ),
        record=run_record(
            line.replace(size=teacher.tokenizer.image_size), "student", made_from, continues
        ),
        use_wandb=wants_wandb(request),
    )


def run(job: DistillJob) -> None:
    """Train the student, from its last saved state if there is one."""
    teacher, machine = job.teacher.open(), job.machine
    network: Any = teacher.transformer

    def preview(network: nn.Module, path: Path) -> None:
        student = replace(
            teacher, transformer=as_transformer(network), best=None, made_for=job.sampling
        )
        labels = classes_in_turn(len(teacher.class_names), 0)
        shown = student.sample([labels[i % len(labels)] for i in range(PREVIEW_IMAGES)])
        save_grid(path, list(shown), columns=grid_columns(len(labels)))

    stage = DistillationStage(
        network,
        job.teacher.shape,
        job.training,
        device=machine.device,
        precision=machine.precision,
        checkpoint_entries={
            "dataset": teacher.dataset,
            "class_names": list(teacher.class_names),
            "tokenizer": teacher.tokenizer.entry(),
        },
        preview=preview,
        compile_model=machine.compiled,
    )
    runs.run_stage(stage, job.run, job.loop, job.record, use_wandb=job.use_wandb)


def describe(job: DistillJob) -> dict[str, Any]:
    """Return what --dry_run prints about this Job."""
    return {
        **describe_model(job.teacher),
        "steps": f"{job.loop.epochs * UPDATES_PER_EPOCH} of {job.training.batch_size} images",
        "student": job.run.model,
        "plan": make_plan([job.teacher.shape.seq_len], job.sampling).table(),
    }

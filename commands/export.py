"""--export: write the model as a folder for the hub, or the transformer for another program."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands.generation import describe_model
from commands.model_card import model_card
from commands.model_source import ModelSource, find_model
from commands.parser import CommandLine
from commands.request import Request
from metrics.report import report
from models.families.tables import family_of
from models.model import Model
from utils.checkpoint import save_folder, torch_save
from utils.errors import UserError, failures_of
from utils.files import atomic_write, check_place, make_folder, temporary_folder, write_text_atomic
from utils.not_a_checkpoint import ENDINGS
from utils.progress import log_written
from utils.torch_file import read_json

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportJob:
    """A model to write: all of it into a folder, or its transformer into a file."""

    model: ModelSource
    path: Path
    is_folder: bool


def check(line: CommandLine) -> None:
    """Refuse what exists, and a file that would not be one of torch.save."""
    path = Path(line.export)
    if path.suffix == ".safetensors":
        raise UserError(f"--export {path}: name the folder; its file is model.safetensors")
    if path.exists():
        raise UserError(f"--export {path} exists already; nothing is overwritten")
    check_place(path)


def resolve(request: Request) -> ExportJob:
    """Find the model to export.

    Raises:
        UserError: if the model is missing, or no other program can read its family.
    """
    model, name = find_model(request), request.line.export
    is_folder = not name.endswith(ENDINGS)
    if not is_folder and family_of(model.shape).write is None:
        raise UserError(
            f"--export: no other program reads the family of {model.path}: name a folder, which "
            "this program opens again"
        )
    return ExportJob(model, Path(name), is_folder)


def describe(job: ExportJob) -> dict[str, Any]:
    """Return what --dry_run prints about this Job."""
    return describe_model(job.model)


def run(job: ExportJob) -> None:
    """Write the folder, or the file in the layout of the other program."""
    model = job.model.open()
    if job.is_folder:
        _write_folder(job, model)
        log_written(job.path, "the model with its tokenizer; README.md has a line to fill in")
        return
    write = family_of(job.model.shape).write
    assert write is not None, "resolve refuses such a family"
    if model.made_for is not None:
        log.warning("this layout cannot store the settings that the student is made for")
    if job.model.shape.null_class is None:
        log.warning("this layout cannot say that the null class is untrained: use no guidance")
    with atomic_write(job.path) as file:
        torch_save(write(model.transformer), file)
    log_written(job.path, "the transformer alone, without its tokenizer")


def _write_folder(job: ExportJob, model: Model) -> None:
    """Write the folder; it gets its name when it is complete."""
    parent, name = make_folder(job.path.absolute().parent), job.path.name
    with failures_of(f"--export {job.path}"), temporary_folder(parent, name) as around:
        folder = make_folder(around / name)
        save_folder(folder, "maskgit", model.contents())
        write_text_atomic(folder / "README.md", model_card(model, _measured(job, model)))
        folder.rename(job.path)


def _measured(job: ExportJob, model: Model) -> str:
    """Return what --evaluate, or else the sweep, measured of this model; empty if nothing."""
    try:
        found = read_json(job.model.run.evaluation("samples"))
        if found["protocol"]["checkpoint"]["fingerprint"] == model.fingerprint:
            return report(found["scores"], found["protocol"])
    except (OSError, KeyError, TypeError, ValueError):  # not measured, or not written by --evaluate
        pass
    return report(model.best.scores, {"basis": "", **model.best.protocol}) if model.best else ""

"""--export: write the trained transformer in the layout of caetas/GenerativeZoo."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands.generation import describe_model
from commands.parser import CommandLine
from commands.request import Request
from commands.sources import ModelSource, find_model
from models.open import transformer_family
from utils.checkpoint import torch_save
from utils.errors import UserError
from utils.files import atomic_write
from utils.progress import log_written

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportJob:
    """A transformer to write."""

    model: ModelSource
    path: Path


def check(line: CommandLine) -> None:
    """Refuse a file that exists."""
    path = Path(line.export)
    if path.exists():
        raise UserError(f"--export {path} exists already; nothing is overwritten")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir():
        raise UserError(f"--export {path}: {above} is a file, not a folder")


def resolve(request: Request) -> ExportJob:
    """Find the model to export.

    Raises:
        UserError: if the model is missing, or no other program can read its family.
    """
    model = find_model(request)
    if transformer_family(model.shape).write is None:
        raise UserError(f"--export: no other program reads the family of {model.path}")
    return ExportJob(model, Path(request.line.export))


def describe(job: ExportJob) -> dict[str, Any]:
    """Return what --dry_run prints about this Job."""
    return describe_model(job.model)


def run(job: ExportJob) -> None:
    """Write the weights in the layout of the other program."""
    write = transformer_family(job.model.shape).write
    assert write is not None, "resolve refuses such a family"
    if job.model.made_for is not None:
        log.warning("this layout cannot store the settings that the student is made for")
    if job.model.shape.null_class is None:
        log.warning("this layout cannot say that the null class is untrained: use no guidance")
    with atomic_write(job.path) as file:
        torch_save(write(job.model.open().transformer), file)
    log_written(job.path, "the transformer alone, without its tokenizer")

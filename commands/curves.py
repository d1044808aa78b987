"""--curves: draw the curves of runs on top of each other."""

import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands.parser import CommandLine
from commands.request import Request
from commands.training_jobs import StageJob
from training.charts import draw_curves
from training.run_folder import RunFiles
from training.run_record import STAGES
from training.tracking import read_metrics
from utils.errors import UserError, named, value_text
from utils.plots import plotting_obstacle
from utils.progress import log_written

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CurvesJob:
    """Runs to draw.

    Attributes:
        runs: the run folders, by their names in the legend.
        output: the run folder whose `curves` name the pictures.
    """

    runs: dict[str, RunFiles]
    output: RunFiles


def check(line: CommandLine) -> None:
    """Refuse --curves without matplotlib, and a --run_name that would have no effect."""
    obstacle = plotting_obstacle()
    if obstacle:
        raise UserError(f"--curves: {obstacle}")
    if line.run_name and len(line.modes) == 1:
        raise UserError(f"--run_name {line.run_name}: give the runs to draw after --curves")


def resolve(request: Request) -> CurvesJob:
    """Find the runs; those that earlier modes of the command will train have no numbers yet.

    Raises:
        UserError: if a run does not exist, or none has numbers.
    """
    line, output = request.line, Path(request.line.output_dir)
    jobs = request.jobs.values()
    trained = {job.run.path.resolve() for job in jobs if isinstance(job, StageJob)}
    written: dict[Path, str] = {}  # what the user wrote, by folder
    without = []
    for text in line.curves:
        path = _folder_of(text, output, trained)
        if path is None:
            without.append(text)
        else:
            written.setdefault(path.resolve(), text)
    if without:
        log.warning("left out, as no training has written numbers there: %s", named(without))
    if not written:
        raise UserError(f"--curves {value_text(line.curves)}: no numbers to draw")
    names = [folder.name for folder in written]
    if len(set(names)) < len(names):
        names = list(written.values())
    runs = {name: RunFiles(folder) for name, folder in zip(names, written, strict=True)}
    return CurvesJob(runs, RunFiles(output) if len(runs) > 1 else next(iter(runs.values())))


def describe(job: CurvesJob) -> dict[str, Any]:
    """Return what --dry_run prints about this Job."""
    return {"runs to draw": value_text(list(job.runs)), "pictures in": job.output.path}


def run(job: CurvesJob) -> None:
    """Draw a picture for each stage of which a run has numbers.

    Raises:
        UserError: if no run has any, or a file cannot be read or written.
    """
    pictures = []
    for stage in STAGES:
        rows = {name: read_metrics(run.metrics(stage)) for name, run in job.runs.items()}
        with_rows = {name: found for name, found in rows.items() if found}
        if with_rows:
            draw_curves(job.output.curves(stage), stage, with_rows)
            pictures.append(job.output.curves(stage))
    if not pictures:
        raise UserError(f"--curves {value_text(list(job.runs))}: no line of numbers can be read")
    for path in pictures:
        log_written(path)


def _folder_of(text: str, output: Path, trained: Collection[Path]) -> Path | None:
    """Find the folder of a run by its name in the output folder, or by its path.

    Returns:
        The folder; None if it has no numbers.

    Raises:
        UserError: if there is no such folder.
    """
    places = (output / text, Path(text))
    for path in places:
        if path.resolve() in trained or _has_numbers(path):
            return path
    if not any(path.exists() for path in places):
        runs = sorted(path.name for path in output.glob("*") if _has_numbers(path))
        raise UserError(
            f"--curves {text}: there is no such folder, and no run of this name in {output}, which "
            f"has {', '.join(runs) or 'none'}"
        )
    return None


def _has_numbers(folder: Path) -> bool:
    """Whether a folder has the numbers of a stage."""
    files = [RunFiles(folder).metrics(stage) for stage in STAGES]
    return any(file.is_file() and file.stat().st_size > 0 for file in files)

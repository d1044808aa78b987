"""--sample: its Job, and pictures of the decoding steps; MaskGIT.py runs it."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from commands.generation import (
    Generation,
    changed_options,
    grid_columns,
    log_odd_plan,
    resolve_generation,
)
from commands.options import BEST
from commands.recipe import command_texts, same_again
from commands.request import Request
from commands.start_tokens import with_start_tokens
from data.blocks import BlockFolder
from data.publish import BESIDE
from models.cells import check_cells
from models.labels import written_labels
from models.sampling import SamplingConfig
from page.form import Recipe
from utils.pictures import hatch_cells, save_film
from utils.plain import to_plain
from utils.progress import log_written

log = logging.getLogger(__name__)

FILMED_IMAGES = 8


@dataclass(frozen=True)
class SampleJob:
    """Images to sample.

    Attributes:
        film: what pictures of the first images at every step show, "hidden" (the cells that are) or
            "imagined" (the whole image); None writes none.
        same_again: words of the command line for the other options that change the images.
    """

    generation: Generation
    folder: Path
    columns: int
    film: str | None
    same_again: tuple[str, ...]

    def texts(self) -> dict[str, str]:
        """Return what the PNG files say about themselves: how they are made again."""
        series, model = self.generation.series, self.generation.model.open()
        if series.known:
            return {}  # another file is needed, too
        recipe = Recipe(
            model=self.generation.model.path,
            series=series,
            labels=written_labels(series.labels, model.class_names, series.first_image),
            usual=model.usual,
        )
        return command_texts(recipe, model.fingerprint, self.same_again)

    def identity(self) -> dict[str, Any]:
        """Return everything that the bits of the images depend on, as plain data."""
        model, machine = self.generation.model.open(), self.generation.machine
        series, known = self.generation.series, self.generation.series.known
        start = {"start_tokens": [known.tokens.tolist(), known.hidden.tolist()]} if known else {}
        return {
            **self.generation.protocol(),
            "classes": series.labels,
            "checkpoint": model.fingerprint,
            "device": machine.device.type,
            "compiled": machine.compiled,
            "sampling": to_plain(series.sampling),
            **start,
        }


def resolve(request: Request) -> SampleJob:
    """Decide which images are sampled, and with which settings.

    Raises:
        UserError: if the model is missing, or an option does not fit it.
    """
    line = request.line
    generation = with_start_tokens(line, resolve_generation(request))
    model = generation.model
    log_odd_plan(generation.series.sampling, generation.num_hidden)
    if line.save_steps:
        check_cells(model.tokenizer.grid, "--save_steps shows what is hidden")
    if model.best is not None and line.settings != BEST:
        text = "%s holds the best settings of a sweep (`settings` best): %s: %s"
        options = changed_options(model.best.sampling, SamplingConfig.usual_for(model.shape))
        log.info(text, model.path, options, model.best.summary())
    return SampleJob(
        generation=generation,
        folder=model.run.samples,
        columns=grid_columns(model.shape.num_classes),
        film=line.save_steps,
        same_again=tuple(same_again(line, to_share=True)),
    )


def describe(job: SampleJob) -> dict[str, Any]:
    """Return what --dry_run prints about this Job."""
    return job.generation.describe()


def save_steps(job: SampleJob, folder: Path) -> None:
    """Write `steps.png` and `steps.gif`: the first images at every decoding step."""
    model, series = job.generation.model.open(), job.generation.series
    steps = list(model.sample_steps(replace(series, labels=series.labels[:FILMED_IMAGES])))
    finished = model.image_of(steps[-1])
    frames = [
        model.image_of(step)
        if job.film == "imagined" and not step.hidden.all()
        else hatch_cells(finished, step.hidden)
        for step in steps
    ]
    save_film(folder, frames)


def blocks_of(job: SampleJob, identity: Mapping[str, Any]) -> BlockFolder:
    """Return the folder of the blocks of images; `identity` is that of the job."""
    return BlockFolder(job.folder / BESIDE, identity)


def log_results(job: SampleJob) -> None:
    """Log the files in the folder; the picture comes last."""
    film = ("steps.gif", "steps.png") if job.film else ()
    for name in ("images", "samples.npz", *film, "grid.png"):
        log_written(job.folder / name)

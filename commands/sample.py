"""--sample: its Job, and pictures of the decoding steps; MaskGIT.py runs it."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from commands.generation import (
    Generation,
    describe_model,
    grid_columns,
    log_best_settings,
    log_plan,
    plan_table,
    resolve_generation,
    sampling_of,
)
from commands.options import BEST
from commands.recipe import command_texts, same_again
from commands.request import Request
from commands.start_tokens import read_start_tokens
from data.blocks import BlockFolder
from data.publish import BESIDE
from models.cells import check_cells
from models.labels import written_labels
from models.sampling import SamplingConfig
from page.form import Recipe
from utils.pictures import hatch_hidden, save_film
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
    sampling: SamplingConfig
    folder: Path
    columns: int
    film: str | None
    same_again: tuple[str, ...]

    def texts(self) -> dict[str, str]:
        """Return what the PNG files say about themselves: how they are made again."""
        images, model = self.generation, self.generation.model.open()
        if images.midway:
            return {}  # another file is needed, too
        recipe = Recipe(
            model=images.model.path,
            labels=written_labels(images.labels, model.class_names, images.series.first_image),
            count=len(images.labels),
            seed=images.series.seed,
            first_image=images.series.first_image,
            block_size=images.series.block_size,
            sampling=self.sampling,
            usual=model.usual,
        )
        return command_texts(recipe, model.fingerprint, self.same_again)

    def identity(self) -> dict[str, Any]:
        """Return everything that the bits of the images depend on, as plain data."""
        model, machine = self.generation.model.open(), self.generation.machine
        midway = self.generation.midway
        start = {"start_tokens": [n.tolist() for n in midway[1:]]} if midway else {}
        return {
            **self.generation.protocol(),
            "classes": self.generation.labels,
            "checkpoint": model.fingerprint,
            "device": machine.device.type,
            "compiled": machine.compiled,
            "sampling": to_plain(self.sampling),
            **start,
        }


def resolve(request: Request) -> SampleJob:
    """Decide which images are sampled, and with which settings.

    Raises:
        UserError: if the model is missing, or an option does not fit it.
    """
    generation = resolve_generation(request)
    if request.line.save_steps:
        check_cells(generation.model.tokenizer.grid, "--save_steps shows what is hidden")
    sampling = sampling_of(request.line, generation.model)
    midway = read_start_tokens(
        request.line, generation.model, sampling, generation.model.shape.seq_len
    )
    if generation.model.best is not None and request.line.settings != BEST:
        log_best_settings(generation.model.path, generation.model.best)
    return SampleJob(
        generation=replace(generation, midway=midway),
        sampling=sampling,
        folder=generation.model.run.samples,
        columns=grid_columns(generation.model.shape.num_classes),
        film=request.line.save_steps,
        same_again=tuple(same_again(request.line, to_share=True)),
    )


def describe(job: SampleJob) -> dict[str, Any]:
    """Return what --dry_run prints about this Job."""
    return {
        **describe_model(job.generation.model),
        "images": len(job.generation.labels),
        "plan": plan_table(job.sampling, job.generation.model.shape.seq_len),
    }


def log_sampling_plan(job: SampleJob) -> None:
    """Log what decoding will do at each step."""
    log_plan(job.sampling, job.generation.model.shape.seq_len)


def save_steps(job: SampleJob, folder: Path) -> None:
    """Write `steps.png` and `steps.gif`: the first images at every decoding step."""
    model, labels = job.generation.model.open(), job.generation.labels[:FILMED_IMAGES]
    series, midway = job.generation.series, job.generation.midway
    steps = list(model.sample_steps(labels, job.sampling, series, midway=midway))
    finished = model.image_of(steps[-1])
    frames = [
        model.image_of(step)
        if job.film == "imagined" and not step.hidden.all()
        else hatch_hidden(finished, step.hidden)
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

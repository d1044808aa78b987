"""--edit: regenerate part of an image, in one or several variants."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from commands.generation import GRID_COLUMNS, Generation, resolve_generation
from commands.model_source import data_of, find_model
from commands.parser import CommandLine
from commands.request import Request
from commands.start_tokens import with_start_tokens
from data.edit_region import image_to_edit, region_to_make
from data.generated import write_pngs
from data.publish import claim, new_folder, publish
from models.cells import check_cells, composite, hidden_cells
from models.labels import label_without_class
from utils.errors import FieldError, UserError
from utils.pictures import hatch_cells, save_grid
from utils.progress import log_written

log = logging.getLogger(__name__)

MAX_SHOWN = 100  # images in the grid


@dataclass(frozen=True)
class EditJob:
    """An image to edit.

    Attributes:
        original: the image, uint8 (H, W, C).
        mask: bool (H, W), True where pixels are regenerated.
        grow: tokens by which the region grows on every side.
        put_back: whether the pixels outside the region keep their original values.
    """

    variants: Generation
    original: np.ndarray
    mask: np.ndarray
    grow: int
    put_back: bool
    folder: Path


def check(line: CommandLine) -> None:
    """Refuse an --edit without an image or without a region."""
    sides = [side for side, _ in line.outpaint or ()]
    if len(set(sides)) < len(sides):
        raise UserError(f"--outpaint names a side twice: {' '.join(sides)}")
    if line.init_image is None:
        raise UserError("--edit needs --init_image: a file, or <dataset>:<index>")
    if not (line.mask_box or line.mask_image or line.outpaint):
        raise UserError(
            "--edit needs a region to regenerate: --mask_box, --mask_image or --outpaint"
        )
    for name in ("init_image", "mask_image"):
        file = getattr(line, name)
        if file and ":" not in file and not Path(file).is_file():
            raise FieldError(name, file, "there is no such file")


def ignores(line: CommandLine) -> set[str]:
    """Name the options of --edit without effect on how the region is marked."""
    return set() if line.mask_image else {"mask_threshold"}


def resolve(request: Request) -> EditJob:
    """Read the image and mark the region to regenerate.

    Raises:
        UserError: if the model or the image is missing, or an option does not fit them.
    """
    line, model = request.line, find_model(request)
    check_cells(model.tokenizer.grid, "--edit keeps tokens")
    # The image, and its region to regenerate.
    size, channels = model.tokenizer.image_size, model.tokenizer.image_channels
    data = data_of(request, model)
    shown = data.preparation
    original, label = image_to_edit(
        line.init_image, model.dataset, lambda: data.open("validation"), size, channels, shown
    )
    margins = dict(line.outpaint or [])
    original, mask = region_to_make(
        original,
        line.mask_box,
        line.mask_image,
        margins,
        photo=line.init_image,
        threshold=line.mask_threshold,
        shown=shown,
    )
    # Without --labels an image of the dataset keeps its class, and a file has no class.
    if label is None and not line.labels:
        label = label_without_class(model.shape.num_classes, model.shape.null_class)
    tokenizer = model.tokenizer
    hidden = hidden_cells(mask, tokenizer.grid, line.mask_grow, tokenizer.splits)  # (h, w)
    variants = resolve_generation(
        request, None if label is None else [label], num_hidden=int(hidden.sum())
    )
    return EditJob(
        variants=with_start_tokens(line, variants),
        original=original,
        mask=mask,
        grow=line.mask_grow,
        put_back=not line.no_composite,
        folder=model.run.path / "edits",
    )


def describe(job: EditJob) -> dict[str, Any]:
    """Return what --dry_run prints about this Job."""
    return job.variants.describe()


def run(job: EditJob) -> None:
    """Make the variants and write them; the grid shows the original first."""
    # Choose the tokens to keep and those to regenerate.
    model, series = job.variants.model.open(), job.variants.series
    known, mask = model.known_tokens(job.original, job.mask, job.grow)
    hidden = known.hidden.reshape(model.tokenizer.grid).numpy()  # (h, w)
    log.info("regenerated tokens: %d of %d", hidden.sum(), hidden.size)
    series = series if series.known else replace(series, known=known)

    def blocks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the variants uint8 (B, H, W, C) and their labels."""
        for images, labels in model.sample_blocks(series):
            yield (composite(job.original, images, mask) if job.put_back else images), labels

    # Write every variant to a file, and the first ones to a grid. Then replace earlier results.
    with claim(job.folder, "editing"):
        made = new_folder(job.folder)
        shown = [job.original, hatch_cells(job.original[None], hidden[None])[0]]
        for images, _ in write_pngs(made / "images", blocks()):
            shown.extend(images[: max(0, MAX_SHOWN - len(shown))])
        save_grid(made / "grid.png", shown, columns=GRID_COLUMNS)
        publish(job.folder, ("grid.png",))
    log_written(job.folder / "images")
    log_written(job.folder / "grid.png", "the original, its hidden part, the variants")

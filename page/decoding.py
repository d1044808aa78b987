"""Decodes images for a tab, and yields every step as an event.

The steps come from `Model.sample_steps`. It shares all code that affects the pixels with sampling
and editing on the command line, so the images are those of the command that is shown with them.

Axes: B images, C channels, H W pixels, h w token grid, L tokens of an image.
"""

import base64
import io
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from data.edit_region import Box, region_to_make
from data.image_file import image_of_bytes
from data.images import to_array
from models.cells import check_cells, composite
from models.decoding import make_plan
from models.generator import ImageSeries
from models.labels import classes_in_turn, label_text, written_labels
from models.predictors import KnownTokens
from models.sampling import SamplingConfig
from models.steps import DecodedStep, Midway
from page.catalog import OpenModel
from page.checks import (
    MOST_NUMBER,
    MOST_SEED,
    Json,
    RequestError,
    array,
    encode,
    entries,
    file_bytes,
    numbers,
    whole_number,
)
from page.form import CommandForm, EditedPart, Recipe, texts_of
from page.worker import Event
from utils.pictures import NO_TEXTS, tile, to_picture, write_png
from utils.size import Size

MOST_IMAGES = 64  # of a request
MOST_BYTES = 8 << 20  # pixels of all images of a request
MOST_EXACT = 1 << 16  # bytes of the images of a step that are sent without loss
QUALITY = 75  # of WebP, for larger ones
SHEET_COLUMNS = 8  # images side by side in the picture of a step
# What a command calls the files that the user has to save first: an image to edit, and tokens.
ORIGINAL, START = "original.png", "start_tokens.json"


@dataclass(frozen=True)
class Region:
    """An image to edit, and which part is regenerated.

    Attributes:
        image: uint8 (H, W, C), shifted if there are margins.
        mask: bool (H, W), True where pixels are regenerated.
        known: tokens that are kept.
        put_back: whether the other pixels get their original values back.
    """

    image: np.ndarray
    mask: np.ndarray
    known: KnownTokens
    put_back: bool


@dataclass(frozen=True)
class Decoding:
    """Images to decode, all in one block.

    Attributes:
        opened: the model.
        labels: class of each image, one number per image.
        recipe: what they are made from.
        region: what is edited; None for images that are all new.
        midway: the step of an earlier decoding that they go on from; None for none.
        command: the command line that makes them again, in lines.
        texts: what the files of the images say about themselves.
    """

    opened: OpenModel
    labels: list[int]
    recipe: Recipe
    region: Region | None
    midway: Midway | None
    command: list[str]
    texts: Mapping[str, str]

    def events(self) -> Iterator[Event]:
        """Decode the images: yields the start, every step, and the end.

        A step has the tokens and confidences of those cells only that were hidden before it, and
        the last one has the finished images.
        """
        started = time.monotonic()
        recipe, model = self.recipe, self.opened.model
        yield self._start()
        steps = model.sample_steps(
            self.labels,
            recipe.sampling,
            ImageSeries(recipe.seed, recipe.first_image),
            known=self.region.known if self.region else None,
            midway=self.midway,
        )
        done = self.midway.steps if self.midway else 0
        unsure, was_hidden = [], np.array(True)  # at first all of them
        for number, step in enumerate(steps, start=done):
            branch = self.midway if number == done else None
            if branch:  # what the earlier decoding has drawn here
                tokens = branch.tokens.reshape(model.tokenizer.grid).numpy()
                step = replace(step, proposed=np.broadcast_to(tokens, step.tokens.shape))
            if step.hidden.any() and not branch:  # otherwise the surest tokens are the same
                unsure.append((number, step))
            event = {
                "event": "step",
                "step": number,
                "tokens": encode(
                    np.minimum(step.proposed, model.tokenizer.codebook_size - 1)[was_hidden], "<u4"
                ),
                "hidden": encode(step.hidden, "u1"),
                "confidence": encode(in_few_digits(step.confidence[was_hidden]), "<f4"),
            }
            if step.hidden.any():
                event["imagined"] = self._sheet(step)
            else:
                event["files"] = [png(image, self.texts) for image in self._images(step)]
                event["seconds"] = time.monotonic() - started
            yield event
            was_hidden = step.hidden
        # Not before the next step, because it takes as long as one.
        for number, unsure_step in unsure:
            sheet = self._sheet(unsure_step, surest=True)
            yield {"event": "surest", "step": number, "surest": sheet}
        yield {"event": "done"}

    def choice(self, cell: int) -> dict[str, Any]:
        """Tell how the step after `midway` decides about a cell of the first image.

        Raises:
            UserError: if nothing is decided there.
        """
        if self.midway is None:
            raise RequestError("midway is missing")
        recipe, series = self.recipe, ImageSeries(self.recipe.seed, self.recipe.first_image)
        known = self.region.known if self.region else None
        choice = self.opened.model.cell_choice(
            self.labels[0], recipe.sampling, series, cell, known=known, midway=self.midway
        )
        without = choice.without_class
        return {
            "tokens": choice.tokens.tolist(),
            "guided": choice.guided.tolist(),
            "with_class": choice.with_class.tolist(),
            "without_class": None if without is None else without.tolist(),
            "files": [png(image) for image in choice.images],
            "drawn": choice.drawn,
            "score": choice.score,
            "rank": choice.rank,
            "line": choice.line if choice.num_kept else None,
            "num_kept": choice.num_kept,
        }

    def _start(self) -> Event:
        """Return what is known before the first step."""
        recipe, region = self.recipe, self.region
        hidden = self.opened.model.transformer.config.seq_len
        plan = make_plan([int(region.known.hidden.sum()) if region else hidden], recipe.sampling)
        return {
            "event": "start",
            "labels": self.labels,
            "seed": str(recipe.seed),
            "first_image": str(recipe.first_image),
            "command": " ".join(self.command),
            "command_lines": self.command,
            "fingerprint": self.opened.model.fingerprint,
            "counts": plan.counts[0].tolist(),
            "temperatures": plan.temperatures.tolist(),
            "guidance": plan.guidance.tolist(),
        }

    def _images(self, step: DecodedStep, *, surest: bool = False) -> np.ndarray:
        """Draw what the model imagines at a step, uint8 (B, H, W, C).

        Only the last step has the bits that the command makes. Before it a CPU decodes in float32,
        which takes it 58 ms instead of 94 for 16 images of 32 pixels.
        """
        model = self.opened.model
        if step.hidden.any() and model.tokenizer.device.type == "cpu":
            model = replace(model, precision=torch.float32)
        images = model.image_of(step, surest=surest)
        if self.region and self.region.put_back:
            return composite(self.region.image, images, self.region.mask)
        return images

    def _sheet(self, step: DecodedStep, *, surest: bool = False) -> str:
        """Write what `_images` draws as one picture, or nothing where all is hidden.

        The picture is exact where its bytes are few.
        """
        if step.hidden.all():
            return ""
        images = self._images(step, surest=surest)
        is_exact = images.size <= MOST_EXACT
        # WebP takes no more than 16,383 pixels a side.
        sheet = tile(images, min(SHEET_COLUMNS, len(images)), padding=0)
        file = io.BytesIO()
        # Method 2 makes lossy pictures a sixth smaller than 0, of 64 images in 16 ms (12).
        method = 0 if is_exact else 2
        to_picture(sheet).save(file, "WEBP", lossless=is_exact, quality=QUALITY, method=method)
        return base64.b64encode(file.getvalue()).decode()


def read_decoding(values: Json, opened: OpenModel, form: CommandForm) -> Decoding:
    """Read what a tab wants decoded.

    Args:
        values: its request.
        opened: the model.
        form: the command line.

    Raises:
        UserError: naming what is wrong with it.
    """
    names, tokenizer = opened.model.class_names, opened.model.tokenizer
    sampling = form.read(entries(values, "sampling"), opened.model.usual)
    sampling.validate()
    sampling.validate_for(opened.model.transformer.config)
    # How many images, and which.
    bytes_of_image = math.prod(tokenizer.image_size) * tokenizer.channels
    most = max(1, min(MOST_IMAGES, form.block_size, MOST_BYTES // bytes_of_image))
    count = whole_number(values, "count", 1, most)
    seed = whole_number(values, "seed", 0, MOST_SEED)
    first_image = whole_number(values, "first_image", 0, MOST_NUMBER, default=0)
    num_labels = opened.model.transformer.config.num_labels
    given = numbers(values, "labels", num_labels - 1, max(num_labels, MOST_IMAGES))
    in_turn = given or classes_in_turn(len(names), first_image)
    labels = [in_turn[i % len(in_turn)] for i in range(count)]
    recipe = Recipe(
        model=opened.path,
        labels=written_labels(labels, names, first_image),
        count=count,
        seed=seed,
        first_image=first_image,
        block_size=count,
        sampling=sampling,
        usual=opened.model.usual,
    )
    # What is kept of an image, or of an earlier decoding.
    region = None
    if "edit" in values:
        region, edited = _read_region(entries(values, "edit"), opened)
        # Without labels an edited image keeps its own class.
        named = [label_text(label, names) for label in in_turn]
        recipe = replace(recipe, edited=edited, labels=named)
    midway = None
    if "midway" in values:
        midway = _read_midway(entries(values, "midway"), opened, sampling)
        recipe = replace(recipe, start=START)
    is_sampled = region is None and midway is None
    texts = texts_of(form.text(recipe), opened.model.fingerprint) if is_sampled else {}
    return Decoding(opened, labels, recipe, region, midway, form.write(recipe), texts)


def _read_region(values: Json, opened: OpenModel) -> tuple[Region, EditedPart]:
    """Read the image to edit and which part of it is regenerated; errors as in `read_decoding`."""
    model = opened.model
    size, grid = model.tokenizer.image_size, model.tokenizer.grid
    check_cells(grid, "editing keeps tokens")
    cell = (size[0] // grid[0], size[1] // grid[1])
    image, name = read_original(values, opened)
    # What is regenerated: the free margin of a shifted image, and the cells that are marked.
    margins = {}
    directions = (("right", ("left", "right")), ("down", ("top", "bottom")))
    for (axis, sides), count, pixels in zip(directions, grid[::-1], cell[::-1], strict=True):
        shift = whole_number(values, axis, 1 - count, count - 1, default=0)
        if shift:
            margins[sides[shift < 0]] = abs(shift) * pixels
    cells = np.zeros(grid, bool)
    cells.flat[numbers(values, "cells", cells.size - 1, cells.size)] = True
    if not margins and not cells.any():
        raise RequestError(
            "nothing is marked: paint over the cells to regenerate, or drag the image"
        )
    boxes = boxes_of(cells, cell)
    image, mask = region_to_make(image, boxes, None, margins)
    grow = whole_number(values, "grow", 0, max(grid), default=0)
    put_back = values.get("put_back", True)
    if not isinstance(put_back, bool):
        raise RequestError("put_back must be true or false")
    known, mask = model.known_tokens(image, mask, grow)
    part = EditedPart(name, boxes, margins, grow, put_back)
    return Region(image, mask, known, put_back), part


def read_original(values: Json, opened: OpenModel) -> tuple[np.ndarray, str]:
    """Read the image to edit: an index of the validation split, or a file in base64.

    Returns:
        The image, uint8 (H, W, C), and its name on the command line.

    Raises:
        UserError: if there is no such image, or it has another size.
    """
    model = opened.model
    if "validation" in values:
        split = opened.validation()
        index = whole_number(values, "validation", 0, len(split) - 1)
        return split[index][0].permute(1, 2, 0).numpy(), f"{model.dataset}:{index}"
    height, width = model.tokenizer.image_size
    picture = image_of_bytes(file_bytes(values, "file"), "to edit", height * width)
    if picture.size != (width, height):
        raise RequestError(f"the image to edit must have {width} x {height} pixels")
    return to_array(picture, (height, width), model.tokenizer.channels), ORIGINAL


def _read_midway(values: Json, opened: OpenModel, sampling: SamplingConfig) -> Midway:
    """Read the step of an earlier decoding; errors as in `read_decoding`."""
    tokens = read_tokens(values, opened)
    hidden = array(values, "hidden", "u1", tokens.shape) != 0
    steps = whole_number(values, "steps", 0, sampling.num_steps - 1)
    return Midway(steps, torch.from_numpy(tokens), torch.from_numpy(hidden))


def read_tokens(values: Json, opened: OpenModel) -> np.ndarray:
    """Read the tokens of an image, int64 (L,).

    Raises:
        RequestError: if they are not those of an image of the model.
    """
    config = opened.model.transformer.config
    tokens = array(values, "tokens", "<u4", (config.seq_len,)).astype(np.int64)
    if tokens.max(initial=0) >= config.codebook_size:
        raise RequestError(f"tokens must be 0 to {config.codebook_size - 1}")
    return tokens


def boxes_of(cells: np.ndarray, cell: Size) -> list[Box]:
    """Cover marked cells, bool (h, w), with few rectangles.

    Args:
        cells: True where a cell is marked.
        cell: height and width of a cell in pixels.

    Returns:
        Rectangles in pixels that do not overlap.
    """
    left, boxes = cells.copy(), []
    height, width = cells.shape
    for row, column in np.argwhere(cells).tolist():
        if not left[row, column]:
            continue
        # To the right as far as it goes, and then down.
        end = column
        while end < width and left[row, end]:
            end += 1
        bottom = row
        while bottom < height and left[bottom, column:end].all():
            bottom += 1
        left[row:bottom, column:end] = False
        down, across = cell
        boxes.append((column * across, row * down, end * across, bottom * down))
    return boxes


def show_validation(opened: OpenModel, index: int) -> dict[str, Any]:
    """Return an image of the validation split for the page, with its class if it has one."""
    split = opened.validation()
    if not 0 <= index < len(split):
        raise RequestError(f"the validation split has the images 0 to {len(split) - 1}", 404)
    image, label = split[index]
    number = int(label) if np.ndim(label) == 0 else None
    file = png(image.permute(1, 2, 0).numpy())
    return {"file": file, "label": number, "count": len(split)}


def in_few_digits(values: np.ndarray) -> np.ndarray:
    """Round float32 values to the 8 binary digits of bfloat16, so that they can be compressed."""
    bits = np.ascontiguousarray(values, "<f4").view("<u4")
    return ((bits + 0x8000) & 0xFFFF0000).view("<f4")


def png(image: np.ndarray, texts: Mapping[str, str] = NO_TEXTS) -> str:
    """Write an image, uint8 (H, W, C), as a PNG in base64."""
    file = io.BytesIO()
    write_png(file, image, texts)
    return base64.b64encode(file.getvalue()).decode()

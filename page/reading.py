"""Reads what a tab wants decoded: the form, the image to edit, and the step to go on from."""

import math
from dataclasses import replace

import numpy as np
import torch

from data.edit_region import Box, region_to_make
from models.cells import check_cells
from models.labels import classes_in_turn, label_text, written_labels
from models.sampling import SamplingConfig
from models.steps import Midway
from page.catalog import OpenModel
from page.checks import (
    MOST_NUMBER,
    MOST_SEED,
    Json,
    RequestError,
    array,
    entries,
    numbers,
    whole_number,
)
from page.decoding import Decoding, Region
from page.form import CommandForm, EditedPart, Recipe, texts_of
from page.originals import read_original
from utils.size import Size

MOST_IMAGES = 64  # of a request
MOST_BYTES = 8 << 20  # pixels of all images of a request
START = "start_tokens.json"  # what a command calls the file of tokens


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

"""Reads what a tab wants decoded: the form, the image to edit, and the step to go on from."""

import math

import numpy as np
import torch

from data.edit_region import Box, region_to_make
from models.cells import check_cells
from models.decoding import make_plan
from models.generator import ImageSeries
from models.labels import classes_in_turn, label_text, written_labels
from models.steps import KnownTokens, check_known
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
from page.form import CommandForm, EditedPart, Recipe
from page.originals import read_original
from page.tab_decoding import Region, TabDecoding
from utils.size import Size

MOST_IMAGES = 64  # of a request
MOST_BYTES = 8 << 20  # pixels of all images of a request
START = "start_tokens.json"  # what a command calls the file of tokens


def read_decoding(values: Json, opened: OpenModel, form: CommandForm) -> TabDecoding:
    """Read what a tab wants decoded.

    Args:
        values: its request.
        opened: the model.
        form: the command line.

    Raises:
        UserError: naming what is wrong with it.
    """
    model, names = opened.model, opened.model.class_names
    config, tokenizer = model.transformer.config, model.tokenizer
    sampling = form.read(entries(values, "sampling"), model.usual)
    sampling.validate_for(config)
    # How many images, and which.
    bytes_of_image = math.prod(tokenizer.image_size) * tokenizer.channels
    most = max(1, min(MOST_IMAGES, form.block_size, MOST_BYTES // bytes_of_image))
    count = whole_number(values, "count", 1, most)
    first_image = whole_number(values, "first_image", 0, MOST_NUMBER, default=0)
    given = numbers(values, "labels", config.num_labels - 1, max(config.num_labels, MOST_IMAGES))
    in_turn = given or classes_in_turn(len(names), first_image)
    labels = [in_turn[i % len(in_turn)] for i in range(count)]
    written = written_labels(labels, names, first_image)
    # What is kept of an image, or of an earlier decoding.
    known = region = edited = start = None
    if "edit" in values:
        known, region, edited = _read_region(entries(values, "edit"), opened)
        # Without labels an edited image keeps its own class.
        written = [label_text(label, names) for label in in_turn]
    num_hidden = known.num_planned if known else config.seq_len
    plan = make_plan(num_hidden, sampling)
    if "midway" in values:
        known, start = _read_midway(entries(values, "midway"), opened, num_hidden), START
        check_known(known, plan)
    seed = whole_number(values, "seed", 0, MOST_SEED)
    series = ImageSeries(labels, sampling, seed, first_image, block_size=count, known=known)
    recipe = Recipe(opened.path, series, written, model.usual, edited, start)
    texts = {} if known else form.texts(recipe, model.fingerprint)
    ignored = form.ignored(sampling)
    return TabDecoding(opened, recipe, plan, region, form.write(recipe), ignored, texts)


def _read_region(values: Json, opened: OpenModel) -> tuple[KnownTokens, Region, EditedPart]:
    """Read the image to edit, and which part is regenerated; errors as in `read_decoding`."""
    model = opened.model
    size, grid = model.tokenizer.image_size, model.tokenizer.grid
    check_cells(grid, "editing keeps tokens")
    cell = (size[0] // grid[0], size[1] // grid[1])
    image, name = read_original(values, opened)
    # What is regenerated: the free margin of a shifted image, and the cells that are marked.
    right = cell[1] * whole_number(values, "right", 1 - grid[1], grid[1] - 1, default=0)
    down = cell[0] * whole_number(values, "down", 1 - grid[0], grid[0] - 1, default=0)
    free = {"left": right, "right": -right, "top": down, "bottom": -down}
    margins = {side: pixels for side, pixels in free.items() if pixels > 0}
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
    return known, Region(image, mask), part


def _read_midway(values: Json, opened: OpenModel, num_hidden: int) -> KnownTokens:
    """Read the step of an earlier decoding of so many tokens; errors as in `read_decoding`."""
    tokens = read_tokens(values, opened)
    hidden = array(values, "hidden", "u1", tokens.shape) != 0
    steps = whole_number(values, "steps", 0, MOST_NUMBER)
    return KnownTokens(torch.from_numpy(tokens), torch.from_numpy(hidden), steps, num_hidden)


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

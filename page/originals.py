"""Originals to edit: brings photos to the size of a model, reads images, and shows their tokens."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from data.image_file import image_of_bytes
from data.images import to_array
from page.catalog import OpenModel
from page.checks import (
    MOST_NUMBER,
    MOST_UPLOAD_PIXELS,
    Json,
    RequestError,
    encode,
    file_bytes,
    whole_number,
)
from page.tab_decoding import png
from utils.pictures import to_uint8

TURN = Image.Transpose
TURNS = (None, TURN.ROTATE_270, TURN.ROTATE_180, TURN.ROTATE_90)
"""What Pillow calls 0 to 3 quarter turns to the right; its angles go to the left."""
SIDES = ("left", "top", "right", "bottom")
ORIGINAL = "original.png"  # what a command calls the file that the user has to save first


def shrink(data: bytes, part: Json, opened: OpenModel) -> dict[str, Any]:
    """Turn, cut and shrink a photo.

    Args:
        data: the file.
        part: what a browser wants of it: quarter turns to the right, "turns", and the
            pixels of the turned photo from "left" and "top" to "right" and "bottom". Without them
            all of it is shown as the model's own images are.
        opened: the model.

    Raises:
        UserError: if the file is not an image, or does not have that part.
    """
    shown = opened.shown
    photo = image_of_bytes(data, "that you gave", MOST_UPLOAD_PIXELS, shown.background)
    was = list(photo.size)
    turn = TURNS[whole_number(part, "turns", 0, 3, default=0)]
    photo = photo if turn is None else photo.transpose(turn)
    if "right" in part:
        left, top, right, bottom = (whole_number(part, side, 0, MOST_NUMBER) for side in SIDES)
        if not (left < right <= photo.width and top < bottom <= photo.height):
            raise RequestError(f"the part to cut is not inside {photo.width} x {photo.height}")
        photo, shown = photo.crop((left, top, right, bottom)), replace(shown, fit="crop")
    tokenizer = opened.model.tokenizer
    return {
        "file": png(to_array(photo, tokenizer.image_size, tokenizer.channels, shown)),
        "was": was,
    }


def read_original(values: Json, opened: OpenModel) -> tuple[np.ndarray, str]:
    """Read the image to edit: an index of the validation split, or a file in base64.

    Returns:
        The image, uint8 (H, W, C), and its name on the command line.

    Raises:
        UserError: if there is no such image, or it has another size.
    """
    model = opened.model
    if "validation" in values:
        split = opened.validation_images()
        index = whole_number(values, "validation", 0, len(split) - 1)
        return split.picture(index)[0], f"{model.dataset}:{index}"
    height, width = model.tokenizer.image_size
    data, page = file_bytes(values, "file"), opened.shown.background
    picture = image_of_bytes(data, "to edit", height * width, page)
    if picture.size != (width, height):
        raise RequestError(f"the image to edit must have {width} x {height} pixels")
    return to_array(picture, (height, width), model.tokenizer.channels), ORIGINAL


def show_tokens(values: Json, opened: OpenModel) -> dict[str, Any]:
    """Return the tokens of an image to edit, and the image that they stand for.

    Raises:
        UserError: if the image is not one of the model's size.
    """
    tokenizer = opened.model.tokenizer
    image, _ = read_original(values, opened)
    pixels = torch.from_numpy(np.array(image, order="C")).permute(2, 0, 1)[None]  # (1, C, H, W)
    tokens = tokenizer.encode_bytes(pixels)  # (1, L)
    decoded = to_uint8(tokenizer.to_rgb(tokenizer.decode(tokens)))[0]
    return {"tokens": encode(tokens[0].cpu().numpy(), "<u4"), "file": png(decoded)}


def show_validation(opened: OpenModel, index: int) -> dict[str, Any]:
    """Return an image of the validation split for the page, with its class if it has one."""
    split = opened.validation_images()
    if not 0 <= index < len(split):
        raise RequestError(f"the validation split has the images 0 to {len(split) - 1}", 404)
    image, label = split.picture(index)
    return {"file": png(image), "label": label, "count": len(split)}

"""Tensors to pictures, and pictures to files.

Images are float (B, C, H, W) in [-1, 1] inside the program and uint8 in files. Axes: N images,
B images of a batch, C channels, H W pixels, h w cells (one token each).
"""

import io
import math
import struct
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from utils.files import atomic_write
from utils.plain import NOTHING

TITLE_HEIGHT = 16  # pixels above a strip
FRAME_TIME = 250  # milliseconds of a frame of an animation


ROUNDINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "nearest": torch.round,
    "down": torch.floor,  # as guided-diffusion does
    "half up": lambda levels: (levels + 0.5).floor().clamp(max=255),  # as EDM2 does
}
"""Ways to round levels in [0, 255] to whole numbers."""


def to_uint8(images: Tensor, rounding: str = "nearest") -> np.ndarray:
    """Turn images into bytes by rounding.

    Args:
        images: float (B, C, H, W) in [-1, 1]; values outside are clamped.
        rounding: a key of ROUNDINGS.

    Returns:
        uint8 (B, H, W, C).
    """
    levels = ROUNDINGS[rounding](images.detach().float().clamp(-1, 1).add(1).mul(127.5))
    return levels.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def from_uint8(images: Tensor) -> Tensor:
    """Turn bytes into images: uint8 (..., C, H, W) to float32 (..., C, H, W) in [-1, 1]."""
    return images.to(torch.float32).div_(127.5).sub_(1)


Texts = Mapping[str, str]
"""What a PNG says about itself, by keyword."""


def save_png(path: Path, image: np.ndarray, texts: Texts = NOTHING) -> None:
    """Write an image as `write_png` to a file.

    Raises:
        UserError: if the file cannot be written.
    """
    with atomic_write(path) as file:
        write_png(file, image, texts)


def write_png(file: BinaryIO, image: np.ndarray, texts: Texts = NOTHING) -> None:
    """Write an image, uint8 (H, W, C) with C 1 (gray) or 3, as PNG."""
    chunks = PngInfo()
    for keyword, text in texts.items():
        chunks.add_text(keyword, text)
    to_picture(image).save(file, "PNG", pnginfo=chunks)


def png_texts(data: bytes) -> Texts:
    """Read what a PNG says about itself before its pixels; nothing if it is not a PNG."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
                return {str(k): v for k, v in picture.info.items() if isinstance(v, str)}
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError):
        return {}


def is_intact_png(path: Path) -> bool:
    """Whether a PNG exists and all its parts match their checksums."""
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            picture.verify()
        with Image.open(path, formats=["PNG"]) as picture:
            picture.load()
    except (OSError, SyntaxError, ValueError, struct.error):
        return False
    return True


def to_picture(image: np.ndarray) -> Image.Image:
    """Turn uint8 (H, W, C) into a PIL image, gray if C is 1."""
    return Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)


def tile(images: np.ndarray, columns: int | None = None, padding: int = 2) -> np.ndarray:
    """Place images on one white sheet, row by row.

    Args:
        images: uint8 (N, H, W, C), N at least 1.
        columns: images per row; about the square root of N if None.
        padding: white pixels between images and around them.

    Returns:
        uint8 (rows * (H + padding) + padding, columns * (W + padding) + padding, C).
    """
    count, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    cell_height, cell_width = height + padding, width + padding
    shape = (rows * cell_height + padding, columns * cell_width + padding, channels)
    sheet = np.full(shape, 255, np.uint8)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        top, left = row * cell_height + padding, column * cell_width + padding
        sheet[top : top + height, left : left + width] = image
    return sheet


def save_grid(
    path: Path,
    images: np.ndarray | Sequence[np.ndarray],
    columns: int | None = None,
    texts: Texts = NOTHING,
) -> None:
    """Write images as one sheet, a PNG; arguments as `grid`, the rest as `save_png`."""
    save_png(path, grid(np.stack(list(images)), columns), texts)


def grid(images: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Place images on one white sheet, row by row; small images are enlarged.

    Args:
        images: uint8 (N, H, W, C), N at least 1.
        columns: images per row; about the square root of N if None.

    Returns:
        uint8 (rows, columns, C), in pixels.
    """
    scale = max(1, 64 // images.shape[1])
    return tile(images.repeat(scale, axis=1).repeat(scale, axis=2), columns)


def save_strips(path: Path, strips: Sequence[tuple[str, Path]]) -> None:
    """Write pictures below each other as one PNG, each under its title.

    Args:
        path: the file.
        strips: titles and PNG files, at least one; small pictures are enlarged.

    Raises:
        UserError: if the file cannot be written.
    """
    # Read the pictures.
    pictures = []
    for _, strip in strips:
        with Image.open(strip) as picture:
            scale = max(1, 48 // picture.height)
            wanted = (picture.width * scale, picture.height * scale)
            pictures.append(picture.convert("RGB").resize(wanted, Image.Resampling.NEAREST))
    # Make a sheet that all of them and their titles fit on.
    titles = [title for title, _ in strips]
    font = ImageFont.load_default()
    width = max(
        *(picture.width for picture in pictures), *(int(font.getlength(t)) + 8 for t in titles)
    )
    height = sum(picture.height + TITLE_HEIGHT for picture in pictures)
    sheet = Image.new("RGB", (width, height), "white")
    # Draw them.
    draw = ImageDraw.Draw(sheet)
    top = 0
    for title, picture in zip(titles, pictures, strict=True):
        draw.text((4, top + 2), title, fill="black", font=font)
        sheet.paste(picture, (0, top + TITLE_HEIGHT))
        top += TITLE_HEIGHT + picture.height
    with atomic_write(path) as file:
        sheet.save(file, "PNG")


def hatch_cells(images: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Draw a gray pattern over marked cells.

    Args:
        images: uint8 (B, H, W, C).
        cells: bool (B, h, w); h divides H and w divides W.

    Returns:
        uint8 (B, H, W, C).
    """
    _, height, width, _ = images.shape
    pixels = cells.repeat(height // cells.shape[1], 1).repeat(width // cells.shape[2], 2)
    rows, columns = np.indices((height, width))
    pattern = np.where((rows + columns) % 4 == 0, 160, 96).astype(np.uint8)[..., None]
    return np.where(pixels[..., None], pattern, images)


def save_film(folder: Path, frames: Sequence[np.ndarray]) -> None:
    """Write pictures of how images come about step by step.

    `steps.png` has a row for each image and a column for each step. `steps.gif` is an animation of
    all images, which repeats forever and shows its last frame longer.

    Args:
        folder: folder for both files.
        frames: for each step uint8 (B, H, W, C), all images.

    Raises:
        UserError: if a file cannot be written.
    """
    strip = [image for row in zip(*frames, strict=True) for image in row]
    save_grid(folder / "steps.png", strip, columns=len(frames))
    pictures = [to_picture(grid(frame, columns=len(frame))) for frame in frames]
    durations = [FRAME_TIME] * (len(pictures) - 1) + [6 * FRAME_TIME]
    with atomic_write(folder / "steps.gif") as file:
        pictures[0].save(
            file, "GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0
        )

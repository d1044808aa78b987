"""Decodes images for a tab, and yields every step as an event.

The steps come from `Model.sample_steps`. It shares all code that affects the pixels with sampling
and editing on the command line, so the images are those of the command that is shown with them.

Axes: B images, C channels, H W pixels, h w token grid, L tokens of an image.
"""

import base64
import io
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from models.cells import composite
from models.decoding import Plan
from models.steps import DecodedStep
from page.catalog import OpenModel
from page.checks import Json, RequestError, encode, whole_number
from page.form import Recipe
from page.worker import Event
from utils.pictures import tile, to_picture, write_png
from utils.plain import NOTHING

MOST_EXACT = 1 << 16  # bytes of the images of a step that are sent without loss
QUALITY = 75  # of WebP, for larger ones
QUALITY_STEPS = 600  # quality times steps at most: of many steps each is sent with fewer bytes
SHEET_COLUMNS = 8  # images side by side in the picture of a step


@dataclass(frozen=True)
class Region:
    """An image to edit, and which part is regenerated.

    Attributes:
        image: uint8 (H, W, C), shifted if there are margins.
        mask: bool (H, W), True where pixels are regenerated.
    """

    image: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True)
class TabDecoding:
    """Images to decode, all in one block.

    Attributes:
        opened: the model.
        recipe: what they are made from.
        plan: what each step does.
        region: what is edited; None for images that are all new.
        command: the command line that makes them again, in lines.
        ignored: names of the settings without effect.
        texts: what the files of the images say about themselves.
    """

    opened: OpenModel
    recipe: Recipe
    plan: Plan
    region: Region | None
    command: list[str]
    ignored: list[str]
    texts: Mapping[str, str]

    def events(self) -> Iterator[Event]:
        """Decode the images: yields the start, every step, and the end.

        A step has the tokens and confidences of those cells only that were hidden before it, and
        the last one has the finished images.
        """
        started = time.monotonic()
        series, model = self.recipe.series, self.opened.model
        branch = series.known if self.recipe.start else None
        yield self._start()
        unsure = []
        was_hidden = np.ones((len(series.labels), *model.tokenizer.grid), bool)
        for number, step in enumerate(model.sample_steps(series), branch.steps if branch else 0):
            if branch:  # its first step shows what the earlier decoding has drawn
                tokens = branch.tokens.numpy().reshape(model.tokenizer.grid)
                step = replace(step, proposed=np.zeros_like(step.proposed) + tokens)
            elif step.hidden.any():  # otherwise the surest tokens are the same
                unsure.append((number, step))
            branch = None
            drawn = step.proposed.clip(max=model.tokenizer.codebook_size - 1)
            event = {
                "event": "step",
                "step": number,
                "tokens": byte_by_byte(drawn[was_hidden], "<u4"),
                "hidden": encode(step.hidden, "u1"),
                "confidence": byte_by_byte(in_few_digits(step.confidence[was_hidden]), "<f4"),
            }
            if step.hidden.any():
                event["imagined"] = self._sheet(step)
            else:
                event["files"] = [png(image, self.texts) for image in self._images(step)]
                event["seconds"] = time.monotonic() - started
            yield event
            was_hidden = step.hidden
        # Not before the next step, because it takes as long as one.
        for number, step in unsure:
            yield {"event": "surest", "step": number, "surest": self._sheet(step, surest=True)}
        yield {"event": "done"}

    def choice(self, values: Json) -> dict[str, Any]:
        """Tell how the next step of an earlier decoding decides about a cell of the first image.

        Args:
            values: the request, with the number of the cell.

        Raises:
            UserError: if nothing is decided there.
        """
        if self.recipe.start is None:
            raise RequestError("midway is missing")
        cell = whole_number(values, "cell", 0, self.opened.model.transformer.config.seq_len - 1)
        choice = self.opened.model.cell_choice(self.recipe.series, cell)
        answer = {**vars(choice), "line": choice.line if choice.num_kept else None}
        answer["files"] = [png(image) for image in answer.pop("images")]
        return {n: v.tolist() if isinstance(v, np.ndarray) else v for n, v in answer.items()}

    def _start(self) -> Event:
        """Return what is known before the first step."""
        series, plan = self.recipe.series, self.plan
        return {
            "event": "start",
            "labels": series.labels,
            "seed": str(series.seed),
            "first_image": str(series.first_image),
            "command_lines": self.command,
            "ignored": self.ignored,
            "fingerprint": self.opened.model.fingerprint,
            "counts": plan.counts.tolist(),
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
        if self.region and self.recipe.edited and self.recipe.edited.put_back:
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
        model, num_steps = self.opened.model, self.recipe.series.sampling.num_steps
        steps = min(num_steps, model.transformer.config.seq_len)
        quality = QUALITY if is_exact else min(QUALITY, QUALITY_STEPS // steps)
        # WebP takes no more than 16,383 pixels a side.
        sheet = tile(images, min(SHEET_COLUMNS, len(images)), padding=0)
        file = io.BytesIO()
        # Method 2 makes lossy pictures a sixth smaller than 0, of 64 images in 16 ms (12).
        method = 0 if is_exact else 2
        to_picture(sheet).save(file, "WEBP", lossless=is_exact, quality=quality, method=method)
        return base64.b64encode(file.getvalue()).decode()


def in_few_digits(values: np.ndarray) -> np.ndarray:
    """Round float32 values to the 8 binary digits of bfloat16, so that they can be compressed."""
    bits = np.ascontiguousarray(values, "<f4").view("<u4")
    return ((bits + 0x8000) & 0xFFFF0000).view("<f4")


def byte_by_byte(values: np.ndarray, dtype: str) -> str:
    """Write numbers of four bytes in base64: the first byte of all, then the second of all, ...

    So bytes that are alike stand together, and take less when they are compressed.
    """
    numbers = np.ascontiguousarray(values, dtype).reshape(-1, 1)
    return encode(numbers.view("u1").T, "u1")


def png(image: np.ndarray, texts: Mapping[str, str] = NOTHING) -> str:
    """Write an image, uint8 (H, W, C), as a PNG in base64."""
    file = io.BytesIO()
    write_png(file, image, texts)
    return base64.b64encode(file.getvalue()).decode()

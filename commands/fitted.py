"""Defaults of a training on a user's own images: they follow from the number of images.

The defaults of the program are made for tens of thousands of images. A few hundred need small
batches, so that an epoch has steps enough, and a smaller transformer, which overfits later. The
same rule serves all families.
"""

import logging
import math
from typing import Any

from commands.init import family_of_origin
from commands.parser import CommandLine
from commands.request import Request
from commands.stages import STAGE_OPTIONS, with_defaults
from data.datasets import OWN_IMAGES
from models.open import family_asked_for
from training.run_record import read_config
from utils.errors import counted

log = logging.getLogger(__name__)

SMALL_SET = 10_000  # images; below, the weights with the lowest validation loss are published
MUON_LR = 8e-3


def tokenizer_defaults(count: int) -> dict[str, Any]:
    """Return options of stage 1 for a number of training images."""
    batch = _batch(count / 50, 8, 128)
    return {"batch_size_vae": batch, "n_epochs_vae": _epochs(count, batch, steps=3000)}


def transformer_defaults(
    count: int, optimizer: str, has_rate: bool, most_images: int, most_blocks: int
) -> dict[str, Any]:
    """Return options of stage 2.

    Args:
        count: number of training images.
        optimizer: "adamw" or "muon", which needs fewer steps.
        has_rate: whether the family has a learning rate of its own, which stays.
        most_images: of a step; the default of the family.
        most_blocks: of the transformer; the default of the family.
    """
    batch = _batch(count / 25, 16, most_images)
    steps, lr = (1000, MUON_LR) if optimizer == "muon" else (4000, 1e-3 if batch < 256 else 5e-4)
    values: dict[str, Any] = {"batch_size": batch, "n_epochs": _epochs(count, batch, steps)}
    if not has_rate:
        values["lr"] = lr
    if count < SMALL_SET:
        depth = min(most_blocks, 4 if count < 1000 else 6)
        values |= {"depth": depth, "dropout_t": 0.1, "publish": "best"}
    return values


def with_fitted_defaults(request: Request) -> CommandLine:
    """Fill in defaults that fit the user's images, for options that neither user nor run gives.

    Raises:
        UserError: if the images cannot be opened.
    """
    line = request.line
    stored = read_config(request.run()) if line.resume else {}
    stages = [
        stage
        for stage in ("vqgan", "maskgit")
        if line.asks_for(STAGE_OPTIONS[stage].mode) and stage not in stored
    ]
    if line.dataset != OWN_IMAGES or not stages:
        return line
    count = len(request.data().open("train"))
    values: dict[str, Any] = {}
    if "vqgan" in stages:
        values |= tokenizer_defaults(count)
    if "maskgit" in stages:
        if line.init and "transformer" not in line.given:
            line = with_defaults(line.replace(transformer=family_of_origin(request)))
        has_rate = "lr" in family_asked_for("transformer", line.transformer).config.usual
        values |= transformer_defaults(count, line.optimizer, has_rate, line.batch_size, line.depth)
    decided = {STAGE_OPTIONS[stage].epochs for stage in stages if line.minutes is not None}
    decided |= {"depth", "dropout_t"} if line.init else set()
    values = {name: values[name] for name in values.keys() - line.given - decided}
    shown = " ".join(f"--{name} {values[name]}" for name in sorted(values))
    if shown:
        log.info("defaults for %s: %s", counted(count, "image"), shown)
    return line.replace(**values)


def _batch(images: float, least: int, most: int) -> int:
    """Return the largest power of two that is at most `images`, within bounds."""
    return min(most, max(least, 2 ** math.floor(math.log2(max(images, 1)))))


def _epochs(count: int, batch: int, steps: int) -> int:
    """Return the epochs of a run. Its steps grow with the square root of the number of images.

    Args:
        count: number of training images.
        batch: images of a step.
        steps: steps of a run on 300 images.
    """
    wanted = steps * math.sqrt(max(count, 300) / 300)
    return max(1, round(wanted / max(1, count // batch)))

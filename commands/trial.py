"""What a training will need: measured for --dry_run on a few steps with random data."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch

from training.config import LoopConfig
from training.stage import Stage
from utils.errors import counted
from utils.memory import peak_memory, reset_peak
from utils.progress import duration

FIRST_IMAGES, GROWTH = 2, 4  # of the first trial; from each to the next
LONG_SECONDS = 0.5  # of a trial on a CPU: a larger one would take the user's time
FORWARD_SHARE = 1 / 3  # of a step, for validation


@dataclass(frozen=True)
class Cost:
    """What some work on a number of images needs: seconds, and bytes of memory in all."""

    seconds: float
    memory: float

    def __str__(self) -> str:
        return f"{duration(self.seconds)}, {self.memory / 1e9:.1f} GB of memory"


def cost_of(prepare: Callable[[int], Callable[[], Any]], images: int, device: torch.device) -> Cost:
    """Measure some work on a part of the images, and extrapolate to all of them.

    A step needs some time and memory for the weights alone, so two numbers of images are measured.
    The part grows as long as the work is short.

    Args:
        prepare: returns the work on a number of images; it waits for the device.
        images: number of images that are worked on at once.
        device: where memory is measured.
    """
    trials: list[tuple[int, Cost]] = []
    for size in _sizes(images):
        reset_peak(device)
        work = prepare(size)
        times = []
        # The first time allocates; on a GPU the next ones may record CUDA graphs.
        for _ in range(6 if device.type == "cuda" else 2):
            start = time.monotonic()
            work()
            times.append(time.monotonic() - start)
        seconds = min(times[1:])
        trials.append((size, Cost(seconds, peak_memory(device))))
        del work
        if device.type != "cuda" and len(trials) > 1 and seconds > LONG_SECONDS:
            break
    (few, least), (most, cost) = trials[-2:] if len(trials) > 1 else trials * 2
    more = (images - most) / max(1, most - few)
    return Cost(
        cost.seconds + more * max(0, cost.seconds - least.seconds),
        cost.memory + more * max(0, cost.memory - least.memory),
    )


def _sizes(images: int) -> list[int]:
    """Return growing parts of a number of images, the last one being all of them."""
    sizes = [FIRST_IMAGES]
    while sizes[-1] < images:
        sizes.append(GROWTH * sizes[-1])
    return [*sizes[:-1], images]


def cost_of_steps(
    stage_of: Callable[[int], Stage], images: int, parts: int, device: torch.device
) -> Cost:
    """Measure an optimizer step whose batch is computed in parts.

    Args:
        stage_of: makes a stage with this number of images in a batch, in one part.
        images: images of the batch.
        parts: number of parts.
    """

    def prepare(size: int) -> Callable[[], float]:
        stage, steps = stage_of(size), count()
        return lambda: stage.train_step(next(steps))["loss"].item()

    cost = cost_of(prepare, math.ceil(images / parts), device)
    return Cost(cost.seconds * parts, cost.memory)


def disk_of(loop: LoopConfig, state: int, published: int, is_scored: bool = False) -> str:
    """Describe the size of the files of a run.

    Args:
        state: numbers in its state, float32.
        published: numbers in a checkpoint.
        is_scored: whether the checkpoint with the lowest FID is kept too.
    """
    kept = min(loop.keep_checkpoints, math.ceil(loop.epochs / loop.save_every_epochs))
    copies = 1 + loop.keeps_best + kept + is_scored
    return f"{4 * (state + copies * published) / 1e6:.0f} MB of checkpoints"


def cost_of_training(
    step: Cost, steps: int, made: int, loop: LoopConfig, held_out: int, encoding: float = 0.0
) -> str:
    """Describe the cost of a training, or of what is left of it.

    Args:
        step: the cost of one step.
        steps: number of steps.
        made: how many of them a run that goes on has made.
        held_out: images of a validation, of which each epoch has one.
        encoding: seconds for the tokens of all images.
    """
    validation = FORWARD_SHARE * step.seconds * held_out / loop.images_per_step
    left = max(0.0, 1 - made / steps)
    encoding = 0.0 if made else encoding
    total = left * (steps * step.seconds + loop.epochs * validation) + encoding
    if loop.ends_at is not None:
        total = loop.ends_at - loop.begins_at
    notes = f", with {duration(encoding)} for the tokens" if encoding else ""
    notes += f", after the {counted(made, 'step')} that the run has made" if made else ""
    return f"{Cost(total, step.memory)}; {step.seconds:.2g} s a step{notes}"

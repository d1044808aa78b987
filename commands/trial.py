"""What a training will need: measured for --dry_run on a few steps with random data."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch

from training.stage import Stage
from utils.memory import peak_memory, reset_peak
from utils.progress import duration

MOST_ON_CPU = 8  # images of a trial; time and memory of larger batches are extrapolated
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

    Args:
        prepare: returns the work on a number of images; it waits for the device.
        images: number of images that are worked on at once.
        device: where memory is measured.
    """
    most = images if device.type == "cuda" else min(images, MOST_ON_CPU)
    sizes = sorted({max(1, most // 2), most})
    peaks = []
    seconds = 0.0
    for size in sizes:
        reset_peak(device)
        work = prepare(size)
        for _ in range(2):  # the first time allocates
            start = time.monotonic()
            work()
            seconds = time.monotonic() - start
        peaks.append(peak_memory(device))
        del work
    per_image = max(0, peaks[-1] - peaks[0]) / max(1, sizes[-1] - sizes[0])
    return Cost(seconds * images / most, peaks[-1] + per_image * (images - most))


def steps_of(stage: Stage) -> Callable[[], float]:
    """Return a function that makes the next step of a stage and waits for it."""
    steps = count()
    return lambda: stage.train_step(next(steps))["loss"].item()


def cost_of_training(
    step: Cost, steps: int, epochs: int, images: int, held_out: int, encoding: float = 0.0
) -> str:
    """Describe the cost of a whole training.

    Args:
        step: the cost of one step.
        steps: number of steps.
        epochs: number of validations.
        images: images of a step.
        held_out: images of a validation.
        encoding: seconds for the tokens of all images.
    """
    validation = FORWARD_SHARE * step.seconds * held_out / images
    total = steps * step.seconds + epochs * validation + encoding
    tokens = f", with {duration(encoding)} for the tokens" if encoding else ""
    return f"{Cost(total, step.memory)}; {step.seconds:.2g} s a step{tokens}"

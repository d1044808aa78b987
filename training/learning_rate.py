"""The learning rate as a function of the step."""

import math
from collections.abc import Callable
from dataclasses import dataclass

DECAYS: dict[str, Callable[[float], float]] = {
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "trapezoid": lambda progress: min(1.0, 2 * (1 - progress)),
}
"""Factors on the peak learning rate, by the share of the steps after warm-up that are done."""


@dataclass(frozen=True)
class LearningRate:
    """The rate of every step of a run: a linear warm-up that is capped, then a decay to 0.

    Neither the first step of a warm-up nor the last step of the run has the rate 0, so that no step
    is wasted.

    Attributes:
        epochs: length of the run; not a whole number if its time decides it.
        decay: a key of DECAYS.
    """

    peak: float
    epochs: float
    warmup_epochs: float
    steps_per_epoch: int
    decay: str = "cosine"

    @property
    def capped_warmup(self) -> float:
        """Epochs of warm-up, at most a tenth of the run, so that short runs reach their peak."""
        return min(self.warmup_epochs, self.epochs / 10)

    def __call__(self, step: int) -> float:
        """Compute the rate of an optimizer step, numbered from 0."""
        warmup = round(self.capped_warmup * self.steps_per_epoch)
        if step < warmup:
            return self.peak * ((step + 1) / (warmup + 1))
        left = self.epochs * self.steps_per_epoch - warmup
        return self.peak * DECAYS[self.decay]((step - warmup) / left)

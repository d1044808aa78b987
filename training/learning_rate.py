"""The learning rate as a function of the step."""

import math
from collections.abc import Callable
from dataclasses import dataclass

DECAYS: dict[str, Callable[[float], float]] = {
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "trapezoid": lambda progress: min(1.0, 2 * (1 - progress)),
}
"""Factors on the peak learning rate, by the share of the steps after warm-up that are done."""


def capped_warmup(warmup_epochs: float, epochs: float) -> float:
    """Limit a warm-up, in epochs, to a tenth of the run, so that short runs reach their peak."""
    return min(warmup_epochs, epochs / 10)


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

    def __call__(self, step: int, epochs: float | None = None) -> float:
        """Compute the rate of a step.

        Args:
            step: optimizer step, from 0.
            epochs: another number of epochs, to compare; None uses the run's own.
        """
        epochs = epochs or self.epochs
        warmup = round(capped_warmup(self.warmup_epochs, epochs) * self.steps_per_epoch)
        if step < warmup:
            return self.peak * ((step + 1) / (warmup + 1))
        left = round(epochs * self.steps_per_epoch) - warmup
        return self.peak * DECAYS[self.decay](min(1.0, (step - warmup) / max(1, left)))

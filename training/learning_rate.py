"""The learning rate as a function of the step."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

DECAYS: Mapping[str, Callable[[float], float]] = MappingProxyType(
    {
        "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
        "trapezoid": lambda progress: min(1.0, 2 * (1 - progress)),
    }
)
"""Factors on the peak learning rate, by the share of the steps after warm-up that are done."""


def rate_factor(step: int, total_steps: int, warmup_steps: int, decay: str) -> float:
    """Compute the factor on the peak learning rate: linear warm-up, then a decay down to 0.

    Args:
        step: optimizer step, from 0 to total_steps - 1.
        total_steps: length of the run in steps.
        warmup_steps: steps until the factor is 1; with 0 it starts at 1.
        decay: a key of DECAYS.

    Returns:
        A factor in (0, 1]. Neither the first step of a warm-up nor the last step of the run has
        the factor 0, so that no step is wasted.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return DECAYS[decay](min(1.0, progress))


def capped_warmup(warmup_epochs: float, epochs: float) -> float:
    """Limit a warm-up, in epochs, to a tenth of the run, so that short runs reach their peak."""
    return min(warmup_epochs, epochs / 10)


@dataclass(frozen=True)
class LearningRate:
    """The rate of every step of a run: capped warm-up, then a decay over the whole run.

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
        warmup = capped_warmup(self.warmup_epochs, epochs) * self.steps_per_epoch
        total = round(epochs * self.steps_per_epoch)
        return self.peak * rate_factor(step, total, round(warmup), self.decay)

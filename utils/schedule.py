"""The learning rate as a function of the step."""

import math


def warmup_cosine(step: int, total_steps: int, warmup_steps: int) -> float:
    """Factor on the peak learning rate: linear warm-up, then half a cosine down to 0.

    Args:
        step: optimiser step, from 0 to total_steps - 1.
        total_steps: length of the run in steps.
        warmup_steps: steps until the factor is 1; 0 starts at 1.

    Returns:
        A factor in (0, 1]. The first step of a warm-up is already above 0, and the last step of the
        run is the last one above 0, so that no step is wasted.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def capped_warmup(warmup_epochs: float, epochs: int) -> float:
    """Warm-up in epochs, at most a tenth of the run, so that short runs also reach their peak."""
    return min(warmup_epochs, epochs / 10)


def learning_rate(
    step: int, steps_per_epoch: int, epochs: int, warmup_epochs: float, peak: float
) -> float:
    """The rate of a step: capped warm-up, then cosine decay over the whole run."""
    warmup = capped_warmup(warmup_epochs, epochs) * steps_per_epoch
    return peak * warmup_cosine(step, epochs * steps_per_epoch, round(warmup))

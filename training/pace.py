"""How fast a stage is: measured on a few of its own steps."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

from training.stage import Stage
from utils.processes import Processes

MOST_STEPS = 10  # measured at most
LEAST_STEPS = 3
MARGIN = 0.95  # the part of the time that is planned
LEAST_CHANGE = 0.1  # of the steps that are left; a plan that would change by less stays


@dataclass(frozen=True)
class Pace:
    """Seconds of the parts of a training."""

    step: float
    validation: float
    save: float

    def steps_in(self, seconds: float, steps_per_epoch: int, save_every_epochs: int) -> int:
        """Compute how many steps fit into a time, with validations and saves; at least 1."""
        per_epoch = self.validation + self.save / save_every_epochs
        spent = self.step + per_epoch / steps_per_epoch
        return max(1, int((seconds - self.end) / max(spent, 1e-9)))

    @property
    def end(self) -> float:
        """Seconds from the last step to the end of the run."""
        return self.validation + self.save

    def nearer_to(self, step: float) -> "Pace":
        """Return the pace moved half of the way to a new time of a step."""
        factor = (1 + step / max(self.step, 1e-9)) / 2
        return Pace(factor * self.step, factor * self.validation, factor * self.save)


def measured_pace(
    stage: Stage,
    first_step: int,
    save: Callable[[], None],
    most_seconds: float,
    clock: Callable[[], float],
    processes: Processes,
) -> Pace:
    """Make a few steps and a validation. The stage changes: load its state afterwards.

    Args:
        stage: all processes call this function together.
        first_step: number of the first step to make.
        save: writes what a save writes.
        most_seconds: no further steps after this time, once there are LEAST_STEPS.
    """
    began, times = clock(), []
    for step in range(first_step, first_step + MOST_STEPS):
        start = clock()
        stage.train_step(step)["loss"].item()  # waits for the device
        times.append(clock() - start)
        is_long = clock() - began > most_seconds
        if processes.largest(len(times) >= LEAST_STEPS and is_long)[0]:
            break
    parts = [clock()]
    for work in (stage.validate, save):
        work()
        parts.append(clock())
    # The first step allocates, and compiles; the next ones may record CUDA graphs.
    return Pace(statistics.median(times[1:]), parts[1] - parts[0], parts[2] - parts[1])

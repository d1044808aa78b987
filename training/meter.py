"""Averages training metrics on the device without waiting for it."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from training.stage import Position
from utils.errors import UserError

MAX_SKIPPED = 10  # steps in a row without a finite gradient that end the run


class Meter:
    """Adds up a stage's metrics on its device, until `take` returns their means.

    Attributes:
        speed: images per second in the last row.
    """

    def __init__(self, position: Position, clock: Callable[[], float]) -> None:
        """Go on with the sums of a position, which are changed in place."""
        self._clock = clock
        self.speed = 0.0
        self._position = position
        self._sums = position.sums
        self._last_loss = 0.0, 0  # its sum in the last row, and the number of steps
        self._images = 0
        self._bad_step: Tensor | None = None
        self._skipped: Tensor | int = 0  # steps in a row
        self._since = clock()
        self._epoch_images, self._epoch_seconds = 0, 0.0

    def add(self, metrics: Mapping[str, Tensor], images: int, step: int) -> None:
        """Add one step's metrics, without waiting for the device."""
        for name, value in metrics.items():
            total, count = self._sums.get(name, (0, 0))
            self._sums[name] = (total + value.detach(), count + 1)
        # Note the first step where the loss, or too many gradients in a row, were not finite.
        loss = metrics["loss"].detach()
        if self._bad_step is None:
            self._bad_step = torch.full((), -1, device=loss.device)
        self._skipped = torch.where(metrics["skipped"] > 0, self._skipped + 1, 0)
        is_bad = ~loss.isfinite() | (self._skipped >= MAX_SKIPPED)
        is_first_bad = (self._bad_step < 0) & is_bad
        self._bad_step = torch.where(is_first_bad, step, self._bad_step)
        self._images += images

    def check(self) -> None:
        """Wait for the device, and check that loss and gradients are finite.

        Raises:
            UserError: if a loss, or MAX_SKIPPED gradients in a row, were not finite.
        """
        bad_step = -1 if self._bad_step is None else int(self._bad_step.item())
        if bad_step >= 0:
            raise UserError(
                f"the loss, or {MAX_SKIPPED} gradients in a row, became NaN or infinite at step "
                f"{bad_step}; the last saved state is intact, but its options would fail again: "
                "start another `run_name` with a lower learning rate, a longer warm-up or "
                "`precision` fp32"
            )

    def loss(self) -> float:
        """Return the mean loss in the last row and since then; waits for the device."""
        (loss, steps), (last_loss, last_steps) = self._sums.get("loss", (0.0, 0)), self._last_loss
        return (float(loss) + last_loss) / (steps + last_steps)

    def take(self) -> dict[str, float]:
        """Return the means since the last call under "train/<name>"; waits for the device."""
        self.check()
        elapsed = self._clock() - self._since
        means = {f"train/{k}": v.item() / count for k, (v, count) in self._sums.items()}
        self.speed = self._images / max(elapsed, 1e-9)
        self._epoch_images += self._images
        self._epoch_seconds += elapsed
        loss, steps = self._sums["loss"]
        self._last_loss = loss.item(), steps
        self._position.epoch_loss += loss.item()
        self._position.epoch_steps += steps
        self._sums.clear()
        self.restart_clock()
        return means | {"train/images_per_second": self.speed}

    def end_epoch(self) -> tuple[float, float]:
        """Return mean loss and images per second of an epoch, after `take`, and begin the next."""
        position = self._position
        loss = position.epoch_loss / position.epoch_steps
        speed = self._epoch_images / max(self._epoch_seconds, 1e-9)
        position.epoch_loss, position.epoch_steps = 0.0, 0
        self._epoch_images, self._epoch_seconds = 0, 0.0
        return loss, speed

    def restart_clock(self) -> None:
        """Start timing the next rate now, without validation and saving."""
        self._images = 0
        self._since = self._clock()

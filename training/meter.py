"""Averages training metrics on the device without waiting for it."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from utils.errors import UserError

MAX_SKIPPED = 10  # steps in a row without a finite gradient that end the run


class Meter:
    """Adds up a stage's metrics on its device, until `take` returns their means.

    Attributes:
        last: the means that `take` returned last.
    """

    def __init__(self, sums: dict[str, tuple[Tensor, int]], clock: Callable[[], float]) -> None:
        """Start with `Position.sums`, which is changed in place."""
        self._clock = clock
        self.last: dict[str, float] = {}
        self._sums = sums
        self._images = 0
        self._bad_step: Tensor | None = None
        self._skipped: Tensor | int = 0  # steps in a row
        self._since = clock()

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

    def mean(self, name: str) -> float:
        """Return the mean of a metric so far, or the last one taken; waits for the device."""
        total, count = self._sums.get(name, (self.last.get(f"train/{name}", 0.0), 1))
        return float(total) / count

    def take(self) -> dict[str, float]:
        """Return the means since the last call under "train/<name>"; waits for the device."""
        self.check()
        elapsed = self._clock() - self._since
        self.last = {f"train/{k}": v.item() / count for k, (v, count) in self._sums.items()}
        self.last["train/images_per_second"] = self._images / max(elapsed, 1e-9)
        self._sums.clear()
        self.restart_clock()
        return dict(self.last)

    def restart_clock(self) -> None:
        """Start timing the next rate now, without validation and saving."""
        self._images = 0
        self._since = self._clock()

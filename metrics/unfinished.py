"""Keeps the features of an interrupted measurement, so that the same command goes on from there."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.errors import UserError, counted
from utils.records import checksum

if TYPE_CHECKING:  # torchmetrics takes long to load, and few measurements need it
    from metrics.reconstruction import ReconstructionMeter

log = logging.getLogger(__name__)

KIND = "unfinished measurement"
SAVE_SECONDS = 30.0  # between two writes, at least
WAITS = 30  # between two writes, as a multiple of the time that the last one took


def unfinished_file(result: Path) -> Path:
    """Name the file that keeps what is measured for a result that is not written yet."""
    return result.with_suffix(".unfinished")


class Unfinished:
    """The file of a measurement that is not finished.

    Attributes:
        done: number of images finished at the start; the others are still to be made.
        state: what was kept of them (`FeatureCollector.state` and labels); None at the start.
    """

    def __init__(
        self, result: Path, identity: Mapping[str, Any], meter: "ReconstructionMeter | None" = None
    ) -> None:
        """Look for an earlier start; that of another measurement, or a damaged one, is ignored.

        Args:
            result: the file for the result; see `unfinished_file`. The next measurement for it
                replaces what is kept.
            identity: everything that the features depend on, as plain data.
            meter: what else is measured on the same images, and goes on with the features; None
                for nothing.
        """
        self._path, self._identity = unfinished_file(result), checksum(identity)
        self.done, self.state, self._meter = 0, None, meter
        self._last, self._wait = time.monotonic(), SAVE_SECONDS
        if not self._path.is_file():
            return
        try:
            stored = load_checkpoint(self._path, KIND)
        except UserError as error:
            log.warning("%s; the measurement starts from the beginning", error)
            return
        if stored["identity"] == self._identity:
            self.done, self.state = stored["done"], stored["state"]
            if meter is not None:
                meter.restore(stored["meter"])
            log.info("goes on after %s, kept in %s", counted(self.done, "image"), self._path)

    @property
    def is_due(self) -> bool:
        """Whether the last write was long ago."""
        return time.monotonic() - self._last >= self._wait

    def save(self, done: int, state: Mapping[str, Any]) -> None:
        """Write the state of all finished images, `done` in all; errors as in `save_checkpoint`."""
        start, meter = time.monotonic(), self._meter
        contents = {"identity": self._identity, "done": done, "state": state}
        if meter is not None:
            if meter.seen != done:  # in the middle of a block: what was written before holds
                return
            contents["meter"] = meter.state()
        save_checkpoint(self._path, KIND, contents)
        self._last = time.monotonic()
        self._wait = max(SAVE_SECONDS, WAITS * (self._last - start))

    def remove(self) -> None:
        """Delete the file, after the result is written."""
        self._path.unlink(missing_ok=True)

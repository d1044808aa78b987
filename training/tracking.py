"""Records a run's metrics: always in metrics.jsonl, and at Weights & Biases unless turned off.

wandb gets the settings, the metrics and generated images. It never gets real images, paths, code or
the state of a repository. It never asks for a login and never waits long for a network: without
either, the run is recorded offline. If wandb fails later, training continues without it.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from utils.errors import failures_of, one_line
from utils.files import write_text_atomic
from utils.links import open_own
from utils.records import finite, read_record_lines, record_line

log = logging.getLogger(__name__)

MOST_STEP = 2**53  # whole numbers up to here are exact as floats, and in JavaScript
WANDB_PROJECT = "MaskGIT"
WANDB_TIMEOUT_SECONDS = 12
WANDB_FINISH_SECONDS = 60  # for what is not uploaded at the end; wandb itself would wait forever
WANDB_SETTINGS: dict[str, Any] = {
    "init_timeout": WANDB_TIMEOUT_SECONDS,
    "login_timeout": WANDB_TIMEOUT_SECONDS,
    "finish_timeout": WANDB_FINISH_SECONDS,
    "finish_timeout_raises": True,
    "disable_code": True,
    "disable_git": True,
    "disable_job_creation": True,
    "save_code": False,
    "console": "off",
    "silent": True,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
}


class Tracker:
    """Records the metrics and pictures of a run; by default every method does nothing."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record metrics by name at an optimizer step."""

    def log_image(self, name: str, path: Path, step: int) -> None:
        """Record a generated picture that has been written to a file."""

    def sync(self) -> None:
        """Write everything to the disk; called before a state that counts the rows is saved."""

    def close(self) -> None:
        """Flush and end the record."""


class MetricsFile(Tracker):
    """Writes metrics to a file: one JSON object per line, each with its step."""

    def __init__(self, path: Path, from_step: int) -> None:
        """Open the file, and remove rows that an interrupted run wrote after its last saved state.

        Args:
            path: the file; created if needed.
            from_step: last step whose row stays.
        """
        self.path = path
        kept = [finite(row) for row in read_metrics(path) if row["step"] <= from_step]
        write_text_atomic(path, "".join(map(record_line, kept)))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Append one row, each finite number with 6 digits.

        Raises:
            UserError: if it cannot be written.
        """
        rounded = {name: float(f"{value:.6g}") for name, value in finite(metrics).items()}
        with self._appending() as file:
            file.write(record_line({"step": step, **rounded}).encode())

    def sync(self) -> None:
        """Flush the rows to the disk.

        Raises:
            UserError: if that fails.
        """
        with self._appending() as file:
            os.fsync(file.fileno())

    @contextmanager
    def _appending(self) -> Iterator[BinaryIO]:
        """Open the file for appending; errors as in `log`."""
        advice = "; the last saved state is intact (continue with `resume`)"
        with failures_of(f"cannot write {self.path}", advice), open_own(self.path, "ab") as file:
            yield file


class WandbTracker(Tracker):
    """A run of Weights & Biases, online if that works at once and offline otherwise.

    What the user has set for wandb, in its environment variables and files, wandb reads itself.

    Attributes:
        run_id: wandb's id of the run, with which a resumed run continues.
    """

    def __init__(
        self, folder: Path, name: str, config: Mapping[str, Any], run_id: str | None
    ) -> None:
        """Start the run; if wandb fails or is disabled, log a line and record nothing.

        Args:
            folder: where wandb keeps its files, unless the environment has WANDB_DIR.
            name: displayed name of the run.
            config: settings to record; no paths.
            run_id: id of the run to continue; None starts a new one.
        """
        self.run_id = run_id
        self._run: Any = None
        folder = Path(os.environ.get("WANDB_DIR") or folder)
        # Without a folder for its log, the service of wandb writes the log to stderr.
        has_home = os.access(os.environ.get("HOME", ""), os.W_OK)
        if not has_home and not os.environ.get("XDG_CACHE_HOME"):
            os.environ.setdefault("WANDB_CACHE_DIR", str(folder.absolute() / "wandb"))
        reason = ""
        for mode in (None, "offline"):
            try:
                # Imported here because it is slow, and may fail, which must not stop a training.
                import wandb

                settings = wandb.Settings(**WANDB_SETTINGS)
                # wandb itself checks for a login. Only if it is silent before the run begins, a
                # missing login is an error and not a question on the terminal.
                wandb.setup(settings=settings)
                run = wandb.init(
                    mode=mode,
                    project=os.environ.get("WANDB_PROJECT", WANDB_PROJECT),
                    name=name,
                    id=run_id,
                    resume="allow" if run_id else None,
                    config=dict(config),
                    dir=str(folder),
                    settings=settings,
                )
            except Exception as error:  # no error may stop a training
                reason = one_line(error, 100)
                continue
            if run.disabled:
                reason = "it is disabled, by WANDB_MODE or by `wandb disabled`"
                break
            self._run, self._image, self.run_id = run, wandb.Image, run.id
            if run.offline:
                log.info(
                    "wandb records offline in %s%s (`wandb sync` uploads it)",
                    folder / "wandb",
                    reason and f": {reason}",
                )
            return
        log.info("wandb records nothing: %s", reason)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Send metrics to wandb."""
        self._try(lambda run: run.log(dict(metrics), step=step))

    def log_image(self, name: str, path: Path, step: int) -> None:
        """Send a picture to wandb."""
        self._try(lambda run: run.log({name: self._image(str(path))}, step=step))

    def close(self) -> None:
        """Finish the run; what wandb cannot send soon stays on the disk."""

        def finish(run: Any) -> None:
            try:
                run.finish()
            except TimeoutError:
                log.warning("wandb does not answer: `wandb sync` uploads what it has not got")

        self._try(finish)

    def _try(self, action: Callable[[Any], None]) -> None:
        """Call `action` with wandb's run; after an error, never again."""
        if self._run is None:
            return
        try:
            action(self._run)
        except Exception as error:  # no error may stop a training
            log.warning("wandb failed; training continues without it (%s)", one_line(error))
            self._run = None


class Trackers(Tracker):
    """Several trackers as one."""

    def __init__(self, *trackers: Tracker) -> None:
        """Join trackers; with none, nothing is recorded."""
        self.trackers = trackers

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record metrics in each tracker."""
        for tracker in self.trackers:
            tracker.log(metrics, step)

    def log_image(self, name: str, path: Path, step: int) -> None:
        """Record a picture in each tracker."""
        for tracker in self.trackers:
            tracker.log_image(name, path, step)

    def sync(self) -> None:
        """Flush each tracker."""
        for tracker in self.trackers:
            tracker.sync()

    def close(self) -> None:
        """Close each tracker."""
        for tracker in self.trackers:
            tracker.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read what `MetricsFile` wrote, also while a run writes it; damaged rows are logged.

    Args:
        path: the file; a missing one has no rows.

    Returns:
        The intact rows, each with its "step" and metrics by name.

    Raises:
        UserError: if the file cannot be read.
    """
    rows, unreadable = read_record_lines(path, is_row)
    if unreadable:
        log.warning("%s: lines that cannot be read, left out: %d", path, unreadable)
    return rows


def is_row(row: Mapping[str, Any]) -> bool:
    """Whether a row has what `MetricsFile.log` writes: a step, and metrics by name."""
    step, *numbers = row.get("step"), *(value for name, value in row.items() if name != "step")
    is_step = type(step) is int and 0 <= step <= MOST_STEP
    return is_step and all(type(value) is float for value in numbers)

"""The training loop of every stage.

A stage can make a step, validate itself and save itself. The loop decides when: it counts steps and
epochs, logs metrics, shows progress, saves, stops on signals and checks that the loss is finite. It
waits for the device only when it logs or saves.
"""

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor
from tqdm import tqdm

from training.config import DistillConfig, LoopConfig, TrainingConfig, VQGANTrainingConfig
from training.learning_rate import LearningRate
from training.meter import Meter
from training.run_folder import RunFolder
from training.tracking import Tracker
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.errors import UserError, one_line
from utils.plain import ADDED_LATER, from_plain
from utils.processes import ALONE, Processes
from utils.progress import progress_bar
from utils.signals import StopRequest, exit_code, stop_on_signals

log = logging.getLogger(__name__)

LOG_EVERY = 50  # steps between two rows of metrics
# Log a line after this many epochs, and this share of the run, without a lower validation loss.
STALLED_EPOCHS, STALLED_SHARE = 5, 0.1


class Stage(Protocol):
    """A network in training with its data and optimizers, as the loop sees it.

    Attributes:
        name: one of `training.runs.STAGES`, part of its file names.
        kind: the kind of its checkpoint, "vqgan" or "maskgit".
        previews_are_generated: whether previews show only generated images. They may then leave the
            machine.
    """

    name: str
    kind: str
    steps_per_epoch: int
    learning_rate: LearningRate
    previews_are_generated: bool

    @property
    def training(self) -> TrainingConfig | VQGANTrainingConfig | DistillConfig:
        """The settings of the training."""

    def train_step(self, step: int) -> dict[str, Tensor]:
        """Make an optimizer step.

        Args:
            step: its number, from 0.

        Returns:
            Metrics by name, scalars on the device; "loss" and "skipped" are required. "skipped" is
            1 if the loss or the gradient was not finite; the weights must then be unchanged. If the
            loss is finite, all metrics are finite.

        Raises:
            UserError: if images cannot be read; nothing has changed then.
        """

    def validate(self) -> dict[str, float]:
        """Measure the averaged weights on the validation split; returns at least "loss"."""

    def preview(self, path: Path) -> None:
        """Write a picture of what the averaged weights produce."""

    def checkpoint(self, step: int) -> dict[str, Any]:
        """Return the contents of a checkpoint after `step` steps."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state that lets training continue bit for bit."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned."""


@dataclass
class Position:
    """The progress of a run; it is saved with the state.

    Attributes:
        step: optimizer steps made.
        best_loss: lowest validation loss so far.
        best_step: the step after which `best_loss` was measured.
        wandb_id: id of the run at Weights & Biases; None without one.
        wandb_home: identity of the run folder that the id belongs to (`marks_of`); empty in older
            states.
        sums: sum of each metric since the last logged row, and its number of steps. They let a
            resumed run log the same rows as an uninterrupted one.
    """

    step: int = 0
    best_loss: float = math.inf
    wandb_id: str | None = None
    wandb_home: tuple[str, ...] = field(default=(), metadata=ADDED_LATER)
    sums: dict[str, tuple[Tensor, int]] = field(default_factory=dict)
    best_step: int = field(default=0, metadata=ADDED_LATER)

    def validate(self) -> None:
        """Check values that come from a file.

        Raises:
            ValueError, TypeError or AttributeError: if a value is impossible.
        """
        if not 0 <= self.best_step <= self.step or math.isnan(self.best_loss):
            raise ValueError(f"step {self.step}, best loss {self.best_loss}")
        for name, (total, count) in self.sums.items():
            if not isinstance(count, int) or total.shape != () or not total.isfinite():
                raise ValueError(f"sum of {name} {total!r} over {count!r} steps")


def load_state(stage: Stage, run: RunFolder) -> Position:
    """Load the last saved state of a run into a stage.

    Returns:
        The position of the run at that time.

    Raises:
        UserError: if the state cannot be read or does not belong to this stage.
    """
    path = run.resume_state(stage.name)
    state = load_checkpoint(path, f"{stage.name}-resume")
    try:
        stage.load_state_dict(state["stage"])
        position = from_plain(Position, state["position"])
        position.validate()
        position.best_step = position.best_step or position.step  # earlier versions did not save it
    except Exception as error:  # wrong contents can raise anything
        raise UserError(f"{path} does not fit this run: {one_line(error)}") from error
    return position


def train_loop(
    stage: Stage,
    config: LoopConfig,
    run: RunFolder,
    tracker: Tracker,
    position: Position,
    processes: Processes = ALONE,
) -> None:
    """Train a stage from `position` to the end of its last epoch.

    Args:
        stage: its losses must be the same in every process.
        run: the run folder; only the main process writes to it.
        position: where to start; it is updated in place.
        processes: the processes that train together, with this one.

    Raises:
        SystemExit: with 128 plus the signal's number after a signal, once the state is saved.
        UserError: if the loss is not finite, images cannot be read, or a file cannot be written.
    """
    meter = Meter(position.sums)
    _Loop(stage, config, run, tracker, position, processes, meter).train()


@dataclass
class _Loop:
    """The steps of `train_loop`, which share its arguments."""

    stage: Stage
    config: LoopConfig
    run: RunFolder
    tracker: Tracker
    position: Position
    processes: Processes
    meter: Meter
    last_save: float = field(default_factory=time.monotonic)

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        return self.config.epochs * self.stage.steps_per_epoch

    def train(self) -> None:
        """Make all remaining steps, and log and save in between."""
        stage, position, images = self.stage, self.position, self.config.images_per_step
        title, done = f"training {stage.name}", position.step * images
        with (
            stop_on_signals(may_repeat=self.processes.size > 1) as stop,
            progress_bar(title, self.total * images, done, "image", unit_scale=True) as bar,
        ):
            if position.step == 0 and self.processes.is_main:
                # A run always has a state; a checkpoint without one is a finished model.
                self._save_state()
            while position.step < self.total:
                self.meter.add(self._step(), images, position.step)
                position.step += 1
                bar.update(images)
                epoch_ends = position.step % stage.steps_per_epoch == 0
                if position.step % LOG_EVERY == 0 or epoch_ends:
                    self._log_numbers(bar)
                if epoch_ends:
                    self._end_epoch()
                self._save_or_stop(stop)

    def _step(self) -> dict[str, Tensor]:
        """Make the next step; if its images cannot be read, save the state before the error."""
        try:
            return self.stage.train_step(self.position.step)
        except UserError as error:
            self.meter.check()
            if self.processes.is_main:
                self._save_state()
            raise UserError(
                f"{error} (the state after step {self.position.step} is saved; continue with "
                "`resume`)"
            ) from error

    def _log_numbers(self, bar: tqdm) -> None:
        """Log the means of the metrics since the last row."""
        step = self.position.step
        numbers = self.meter.take()
        numbers["train/lr"] = self.stage.learning_rate(step - 1)
        self.tracker.log(numbers, step)
        bar.set_postfix(loss=f"{numbers['train/loss']:.4f}")

    def _end_epoch(self) -> None:
        """Validate and log the result; at a save point write checkpoint and preview."""
        # Validate.
        stage, position, last = self.stage, self.position, self.meter.last
        validation = stage.validate()
        is_best = validation["loss"] < position.best_loss
        if is_best:
            position.best_loss, position.best_step = validation["loss"], position.step
        numbers = {f"val/{name}": value for name, value in validation.items()}
        self.tracker.log(numbers, position.step)
        # Log.
        shown = "  ".join(f"val {name} {value:.4f}" for name, value in validation.items())
        log.info(
            "epoch %d/%d  step %d  loss %.4f  %s  best %.4f  lr %.2e  %.0f images/s",
            position.step // stage.steps_per_epoch,
            self.config.epochs,
            position.step,
            last["train/loss"],
            shown,
            position.best_loss,
            stage.learning_rate(position.step - 1),
            last["train/images_per_second"],
        )
        self._log_stall()
        # Write checkpoint and preview.
        if self.processes.is_main and self.config.keep_best_loss and is_best:
            path = self.run.best(stage.name)
            save_checkpoint(path, stage.kind, stage.checkpoint(position.step))
        if self.processes.is_main and self._is_save_point():
            publish(stage, self.run, position.step, self.config.keep_checkpoints)
            picture = self.run.preview(stage.name, position.step)
            stage.preview(picture)
            if stage.previews_are_generated:
                self.tracker.log_image("samples", picture, position.step)
        self.meter.restart_clock()

    def _log_stall(self) -> None:
        """Log a line if the validation loss has not fallen for many epochs."""
        position, per_epoch = self.position, self.stage.steps_per_epoch
        epochs = (position.step - position.best_step) // per_epoch
        many = max(STALLED_EPOCHS, math.ceil(STALLED_SHARE * self.config.epochs))
        if epochs and epochs % many == 0:
            log.info(
                "the validation loss has not fallen for %d epochs: it was lowest after epoch %d "
                "(`keep_best_loss` keeps that checkpoint)",
                epochs,
                position.best_step // per_epoch,
            )

    def _save_or_stop(self, stop: StopRequest) -> None:
        """Save the state when it is due; after a signal to any process, save and stop them all."""
        # All processes must decide the same, even if only one got a signal or saw the time pass.
        is_late = time.monotonic() - self.last_save > 60 * self.config.save_every_minutes
        signal_number, overdue = self.processes.largest(stop.signal_number, is_late)
        if signal_number or overdue or self._is_save_point():
            self.meter.check()
            if self.processes.is_main:
                self._save_state()
            self.processes.wait()
            self.last_save = time.monotonic()
        if signal_number:
            log.info(
                "stopped by a signal after step %d of %d; the state is saved in %s (continue "
                "with `resume`)",
                self.position.step,
                self.total,
                self.run.path,
            )
            raise SystemExit(exit_code(signal_number))

    def _is_save_point(self) -> bool:
        """Return whether checkpoint, preview and state are written after this step."""
        epoch, rest = divmod(self.position.step, self.stage.steps_per_epoch)
        is_last = epoch == self.config.epochs
        return rest == 0 and (epoch % self.config.save_every_epochs == 0 or is_last)

    def _save_state(self) -> None:
        """Write the state that `load_state` reads."""
        self.tracker.sync()  # the state counts the rows, so they must be on the disk first
        name = self.stage.name
        contents = {"position": vars(self.position).copy(), "stage": self.stage.state_dict()}
        save_checkpoint(self.run.resume_state(name), f"{name}-resume", contents)


def publish(stage: Stage, run: RunFolder, step: int, keep: int = 0) -> None:
    """Write the checkpoint, and keep the last `keep` ones with their step in the name.

    The oldest is deleted last, so at least `keep` complete ones exist at all times.
    """
    contents = stage.checkpoint(step)
    if keep:
        save_checkpoint(run.kept(stage.name, step), stage.kind, contents)
    save_checkpoint(run.published(stage.name), stage.kind, contents)
    if keep:
        for old in run.all_kept(stage.name)[:-keep]:
            old.unlink()

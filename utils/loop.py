"""The training loop of both stages.

A stage knows how to make one step, to validate itself and to save itself. The loop knows when: it
counts steps and epochs, logs, draws progress, saves, resumes, stops on signals and watches for a
loss that is no longer a number. Nothing in it waits for the device between two logging intervals.
"""

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.distributed import ALONE, Processes
from utils.errors import UserError, one_line
from utils.plain import from_plain
from utils.progress import progress_bar
from utils.run_folder import RunFolder
from utils.signals import exit_code, stop_on_signals
from utils.tracking import Tracker

log = logging.getLogger(__name__)

LOG_EVERY = 50  # steps between two looks at the device
MAX_SKIPPED = 10  # steps in a row without a finite gradient: nothing is learned any more


class Stage(Protocol):
    """One learner, as the loop sees it.

    Attributes:
        name: "vqgan" or "maskgit": the kind of its checkpoint and part of its file names.
        steps_per_epoch: optimiser steps of one epoch.
        previews_are_generated: whether previews show nothing of the dataset, and may leave the
            machine.
    """

    name: str
    steps_per_epoch: int
    previews_are_generated: bool

    def train_step(self, step: int) -> dict[str, Tensor]:
        """Make optimiser step `step` (from 0); return scalars on the device.

        "loss" is among them, and "skipped": 1 where loss or gradient were not finite, which must
        leave the weights as they are. All others are finite where the loss is.
        """

    def learning_rate(self, step: int, epochs: int | None = None) -> float:
        """The rate of that step, in a run of so many epochs if not of the stage's own."""

    def validate(self) -> dict[str, float]:
        """Measure the averaged weights on the validation split; "loss" is among the numbers."""

    def preview(self, path: Path) -> None:
        """Write a picture of what the stage can do now."""

    def checkpoint(self, step: int) -> dict[str, Any]:
        """Contents of the self-describing checkpoint."""

    def state_dict(self) -> dict[str, Any]:
        """Everything to continue from, bit for bit."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""


@dataclass(frozen=True)
class LoopConfig:
    """When the loop does what.

    Attributes:
        epochs: in all.
        images_per_step: over all processes, for the rates that are shown.
        save_every_epochs: preview and save after so many epochs, and at the end.
        save_every_minutes: save a resume state at least so often.
        keep_checkpoints: how many checkpoints stay as files with their step in the name.
    """

    epochs: int
    images_per_step: int
    save_every_epochs: int
    save_every_minutes: float
    keep_checkpoints: int


@dataclass
class Position:
    """How far a run has come; saved with its state.

    Attributes:
        step: optimiser steps made.
        best_loss: lowest validation loss.
        wandb_id: of the run at Weights & Biases.
        sums: of the numbers since the last row of metrics, each with its number of steps; a resumed
            run thereby logs what the uninterrupted one does.
    """

    step: int = 0
    best_loss: float = math.inf
    wandb_id: str | None = None
    sums: dict[str, tuple[Tensor, int]] = field(default_factory=dict)

    def validate(self) -> None:
        """Raise ValueError or TypeError if a value cannot be where a run has come to."""
        if self.step < 0 or math.isnan(self.best_loss):
            raise ValueError(f"step {self.step}, best loss {self.best_loss}")
        for name, (total, count) in self.sums.items():
            if not isinstance(count, int) or total.shape != () or not total.isfinite():
                raise ValueError(f"sum of {name} {total!r} over {count!r} steps")


def load_state(stage: Stage, run: RunFolder) -> Position:
    """Bring a stage to where its run's last complete state was saved.

    Raises:
        UserError: if the state cannot be read or is none of this stage.
    """
    path = run.resume_state(stage.name)
    state = load_checkpoint(path, f"{stage.name}-resume")
    try:
        stage.load_state_dict(state["stage"])
        position = from_plain(Position, state["position"])
        position.validate()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
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
        stage: the learner; its losses are the same in every process.
        config: when to do what.
        run: the folder, in which the main process alone writes.
        tracker: where the numbers go.
        position: where to start; moves along.
        processes: those that train together.

    Raises:
        SystemExit: with 143 or 130 after a signal, the state saved.
        UserError: if the loss became non-finite, or a file cannot be written.
    """
    total = config.epochs * stage.steps_per_epoch
    meter = _Meter(position.sums)
    last_save = time.monotonic()
    title = f"training {stage.name}"
    done = position.step * config.images_per_step
    with (
        stop_on_signals(may_repeat=processes.size > 1) as stop,
        progress_bar(title, total * config.images_per_step, done, "image", unit_scale=True) as bar,
    ):
        if position.step == 0 and processes.is_main:
            # From here on there is a state, so that a checkpoint without one is a finished model.
            _save_state(stage, run, position)
        while position.step < total:
            meter.add(stage.train_step(position.step), config.images_per_step, position.step)
            position.step += 1
            bar.update(config.images_per_step)
            epoch_ends = position.step % stage.steps_per_epoch == 0
            if position.step % LOG_EVERY == 0 or epoch_ends:
                numbers = meter.take()
                numbers["train/lr"] = stage.learning_rate(position.step - 1)
                tracker.log(numbers, position.step)
                bar.set_postfix(loss=f"{numbers['train/loss']:.4f}")
            if epoch_ends:
                _end_epoch(stage, config, run, tracker, position, meter, processes)
            is_late = time.monotonic() - last_save > 60 * config.save_every_minutes
            signal_number, overdue = processes.largest(stop.signal_number, is_late)
            if signal_number or overdue or _is_save_point(position.step, stage, config):
                meter.check()
                if processes.is_main:
                    _save_state(stage, run, position)
                processes.wait()
                last_save = time.monotonic()
            if signal_number:
                _leave(signal_number, position, total, run)


def _end_epoch(
    stage: Stage,
    config: LoopConfig,
    run: RunFolder,
    tracker: Tracker,
    position: Position,
    meter: "_Meter",
    processes: Processes,
) -> None:
    epoch = position.step // stage.steps_per_epoch
    validation = stage.validate()
    position.best_loss = min(position.best_loss, validation["loss"])
    tracker.log({f"val/{name}": value for name, value in validation.items()}, position.step)
    shown = "  ".join(f"val {name} {value:.4f}" for name, value in validation.items())
    log.info(
        "epoch %d/%d  step %d  loss %.4f  %s  best %.4f  lr %.2e  %.0f images/s",
        epoch,
        config.epochs,
        position.step,
        meter.last["train/loss"],
        shown,
        position.best_loss,
        stage.learning_rate(position.step - 1),
        meter.last["train/images_per_second"],
    )
    if processes.is_main and _is_save_point(position.step, stage, config):
        _publish(stage, run, position.step, config.keep_checkpoints)
        picture = run.preview(stage.name, position.step)
        stage.preview(picture)
        if stage.previews_are_generated:
            tracker.log_image("samples", picture, position.step)
    meter.restart_clock()


def _publish(stage: Stage, run: RunFolder, step: int, keep: int) -> None:
    """Write the checkpoint, also under its step where checkpoints are kept; then drop the oldest.

    What is there of the past goes last, so that at every instant at least `keep` are complete.
    """
    contents = stage.checkpoint(step)
    if keep:
        save_checkpoint(run.kept(stage.name, step), stage.name, contents)
    save_checkpoint(run.published(stage.name), stage.name, contents)
    if keep:
        for old in run.all_kept(stage.name)[:-keep]:
            old.unlink()


def _is_save_point(step: int, stage: Stage, config: LoopConfig) -> bool:
    epoch, rest = divmod(step, stage.steps_per_epoch)
    return rest == 0 and (epoch % config.save_every_epochs == 0 or epoch == config.epochs)


def _save_state(stage: Stage, run: RunFolder, position: Position) -> None:
    contents = {"position": vars(position).copy(), "stage": stage.state_dict()}
    save_checkpoint(run.resume_state(stage.name), f"{stage.name}-resume", contents)


def _leave(signal_number: int, position: Position, total: int, run: RunFolder) -> None:
    log.info(
        "stopped by a signal after step %d of %d; the state is saved in %s (go on with --resume)",
        position.step,
        total,
        run.path,
    )
    raise SystemExit(exit_code(signal_number))


class _Meter:
    """Sums a stage's numbers on its device and looks at them once in a while.

    Attributes:
        last: the means of the last interval.
    """

    def __init__(self, sums: dict[str, tuple[Tensor, int]]) -> None:
        """Go on from these sums, which are changed in place."""
        self.last: dict[str, float] = {}
        self._sums = sums
        self._images = 0
        self._bad_step: Tensor | None = None
        self._skipped: Tensor | int = 0  # in a row
        self._since = time.monotonic()

    def add(self, metrics: Mapping[str, Tensor], images: int, step: int) -> None:
        """Add one step's numbers without waiting for them."""
        for name, value in metrics.items():
            total, count = self._sums.get(name, (0, 0))
            self._sums[name] = (total + value.detach(), count + 1)
        loss = metrics["loss"].detach()
        if self._bad_step is None:
            self._bad_step = torch.full((), -1, device=loss.device)
        self._skipped = torch.where(metrics["skipped"] > 0, self._skipped + 1, 0)
        is_bad = ~loss.isfinite() | (self._skipped >= MAX_SKIPPED)
        is_first_bad = (self._bad_step < 0) & is_bad
        self._bad_step = torch.where(is_first_bad, step, self._bad_step)
        self._images += images

    def check(self) -> None:
        """Wait for the device; UserError if a loss, or too many gradients, were not finite."""
        bad_step = -1 if self._bad_step is None else int(self._bad_step.item())
        if bad_step >= 0:
            raise UserError(
                f"the loss, or {MAX_SKIPPED} gradients in a row, became NaN or infinite at step "
                f"{bad_step}; the last saved state is good and intact, but the options led here: "
                "start another --run_name with a lower learning rate, a longer warm-up or "
                "--precision fp32"
            )

    def take(self) -> dict[str, float]:
        """Means since the last call, with "train/" before their names; waits for the device."""
        self.check()
        elapsed = time.monotonic() - self._since
        self.last = {f"train/{k}": v.item() / count for k, (v, count) in self._sums.items()}
        self.last["train/images_per_second"] = self._images / max(elapsed, 1e-9)
        self._sums.clear()
        self.restart_clock()
        return dict(self.last)

    def restart_clock(self) -> None:
        """Leave the time since the last look (validation, saving) out of the next rate."""
        self._images = 0
        self._since = time.monotonic()

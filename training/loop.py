"""The training loop of every stage.

It decides when a stage makes a step, validates itself and saves itself: it counts steps and epochs,
logs metrics, shows progress, saves, stops on signals and checks that the loss is finite. It waits
for the device only when it logs or saves.
"""

import logging
import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from tqdm import tqdm

from training.config import LoopConfig
from training.meter import Meter
from training.pace import LEAST_CHANGE, MARGIN, Pace, measured_pace
from training.run_folder import RunFolder
from training.stage import Position, Stage, load_state, publish_checkpoint, run_length, save_state
from training.tracking import Tracker
from utils.checkpoint import save_checkpoint
from utils.errors import UserError, counted
from utils.files import temporary_folder
from utils.memory import peak_memory
from utils.processes import ALONE, Processes
from utils.progress import LINE_EVERY, duration, end_time, progress_bar
from utils.signals import Stopped, StopRequest, cut_short, exit_code, stop_on_signals

log = logging.getLogger(__name__)

SAVE_EVERY_MINUTES = 10.0  # most minutes between two saved states
LOG_EVERY = 50  # steps between two rows of metrics
TIMED_STEPS = 10  # after this many steps a line says when the training will end
TIMED_SHARE = 0.03  # of a time limit; measuring the first steps must not take longer
# Log a line after this many epochs, and this share of the run, without a lower validation loss.
STALLED_EPOCHS, STALLED_SHARE = 5, 0.1


@dataclass(frozen=True)
class Evaluation:
    """When samples are scored while a model trains, and how; the caller knows the metrics.

    Attributes:
        every: epochs between two evaluations; the last epoch is evaluated too.
        basis: digest of what the scores depend on besides the weights; equal ones can be compared.
        measure: scores samples of the averaged weights, by name; "fid" is one of them. It may
            change neither the weights nor the state of random numbers. Only the main process
            calls it.
    """

    every: int
    basis: str
    measure: Callable[[], Mapping[str, float]]


@dataclass
class Loop:
    """The loop of one stage, from `position` to the end of the run.

    Attributes:
        stage: its losses must be the same in every process.
        run: the run folder; only the main process writes to it.
        position: where to start; it is updated in place.
        processes: the processes that train together, with this one.
        evaluation: scores samples during the run; None for no scores.
        clock: returns the time in seconds, that of `LoopConfig.ends_at`.
    """

    stage: Stage
    config: LoopConfig
    run: RunFolder
    tracker: Tracker
    position: Position
    processes: Processes = ALONE
    evaluation: Evaluation | None = None
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self.meter = Meter(self.position, self.clock)
        self.first_step = self.position.step
        self.began = self.last_save = self.last_line = self.clock()
        self.has_picture = False
        self.pace: Pace | None = None  # known if this process chose the length

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        return run_length(self.stage, self.config, self.position)

    def train(self) -> None:
        """Make all remaining steps, and log and save in between.

        Raises:
            SystemExit: with 128 plus the signal's number after a signal, once the state is saved.
            UserError: if the loss is not finite, or a file cannot be read or written.
        """
        stage, position, images = self.stage, self.position, self.config.images_per_step
        if position.step >= self.total:
            return
        with stop_on_signals(may_repeat=self.processes.size > 1) as stop:
            if position.step == 0 and self.processes.is_main:
                # A run always has a state; a checkpoint without one is a finished model.
                self._save_state()
            ends_at = self.config.ends_at
            if ends_at is not None and not position.length and self._has_time(ends_at):
                self._choose_length(ends_at)
            if position.length:
                self._set_length(position.length)
            self.began = self.last_line = self.clock()
            self.meter.restart_clock()
            title = f"training {stage.name}"
            with progress_bar(title, self.total, position.step, "step", lines=False) as bar:
                while position.step < self.total:
                    metrics = self._step()
                    self.meter.add(metrics, images, position.step)
                    position.step += 1
                    bar.update()
                    self._end_if_time_is_over()
                    is_last = position.step == self.total
                    epoch_ends = position.step % stage.steps_per_epoch == 0 or is_last
                    has_row = position.step % LOG_EVERY == 0 or epoch_ends
                    if has_row:
                        self._log_numbers(bar)
                    if epoch_ends:
                        self._end_epoch(stop)
                    if has_row:
                        self._keep_pace()
                        bar.total = self.total  # it may have changed
                    self._log_time(metrics["loss"].device)
                    self._publish_first_picture()
                    self._save_or_stop(stop)

    def _choose_length(self, ends_at: float) -> None:
        """Choose how many steps the run has, so that it ends in time.

        Some steps are made to measure their speed, and taken back.
        """
        stage, position, processes = self.stage, self.position, self.processes
        most = TIMED_SHARE * (ends_at - self.clock())
        pace = measured_pace(stage, position.step, self._try_saving, most, self.clock, processes)
        load_state(stage, self.run)  # `_has_time` has waited for the main process to save it
        now = self.clock()
        self.pace, self.plan_end = pace, now + MARGIN * (ends_at - now)
        steps = processes.from_main(self._steps_left)
        position.length = position.step + steps
        log.info(
            "%s: %s (%s) fit into %s, at %.3g s a step",
            stage.name,
            counted(steps, "step"),
            counted(steps / stage.steps_per_epoch, "epoch"),
            duration(ends_at - now),
            pace.step,
        )

    def _steps_left(self) -> int:
        """Compute how many steps fit into the planned time from now on."""
        assert self.pace is not None
        left, per_epoch = self.plan_end - self.clock(), self.stage.steps_per_epoch
        return self.pace.steps_in(left, per_epoch, self.config.save_every_epochs)

    def _keep_pace(self) -> None:
        """Choose the length again if steps became slower or faster than planned."""
        position = self.position
        if self.pace is None or position.step == self.total:
            return
        planned = self.total - position.step
        pace = self.pace.nearer_to(self.config.images_per_step / self.meter.speed)
        self.pace = pace

        def choose() -> int:
            steps = self._steps_left()
            least = pace.end + LEAST_CHANGE * planned * pace.step
            return steps if abs(steps - planned) * pace.step > least else planned

        # The main process decides: the others measure other times, and save nothing.
        steps = self.processes.from_main(choose)
        if steps != planned:
            self._set_length(position.step + steps)
            text = "a step takes %.3g s now: %s ends after step %d"
            log.info(text, pace.step, self.stage.name, self.total)

    def _set_length(self, steps: int) -> None:
        """Set the number of steps of the run, over which its learning rate falls."""
        stage = self.stage
        self.position.length = steps
        stage.learning_rate = replace(stage.learning_rate, epochs=steps / stage.steps_per_epoch)

    def _try_saving(self) -> None:
        """Write what a save writes, without keeping it, in the main process."""
        if self.processes.is_main:
            with temporary_folder(self.run.path, "trial") as folder:
                contents = self.stage.checkpoint(0)
                save_checkpoint(folder / "trial.pt", self.stage.kind, contents)
                self.stage.preview(folder / "trial.png")

    def _end_if_time_is_over(self) -> None:
        """Make this step the last one if the time is over, because steps became slower."""
        ends_at, position = self.config.ends_at, self.position
        if ends_at is None or position.step == self.total:
            return
        end = self.pace.end if self.pace else 0
        if not self._has_time(ends_at - end):
            text = "the time is over: %s ends after step %d of %d, with its learning rate at %.2g"
            rate = self.stage.learning_rate(position.step - 1)
            log.info(text, self.stage.name, position.step, self.total, rate)
            position.length = position.step

    def _has_time(self, until: float) -> bool:
        """Return whether the time `until` is still to come, the same in all processes."""
        return not self.processes.largest(self.clock() > until)[0]

    def _log_time(self, device: torch.device) -> None:
        """Log when the run will end: after its first steps, and every minute without a bar."""
        position, now = self.position, self.clock()
        made = position.step - self.first_step
        left = (now - self.began) / made * (self.total - position.step)
        is_late = now - self.last_line > LINE_EVERY and not sys.stderr.isatty()
        if position.step < self.total and (made == TIMED_STEPS or is_late):
            loss = f"  loss {self.meter.loss():.4f}" if is_late else ""
            log.info(
                "step %d of %d%s  ends at %s, in %s  %.1f GB of memory",
                position.step, self.total, loss, end_time(left), duration(left),
                peak_memory(device) / 1e9,
            )  # fmt: skip
            self.last_line = now

    def _publish_first_picture(self) -> None:
        """Write checkpoint and preview once before the first save point, when they are due."""
        made = self.position.step - self.first_step
        is_due = self.clock() > self.config.picture_at and made >= TIMED_STEPS
        if is_due and not self.has_picture and self.processes.is_main:
            self._publish()
            self.meter.restart_clock()

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
        numbers["train/epoch"] = step / self.stage.steps_per_epoch
        numbers["train/images"] = step * self.config.images_per_step
        numbers["train/progress"] = step / self.total
        self.tracker.log(numbers, step)
        bar.set_postfix(loss=f"{numbers['train/loss']:.4f}")

    def _end_epoch(self, stop: StopRequest) -> None:
        """Validate and log the result; at a save point write checkpoint and preview."""
        # Validate.
        stage, position, (loss, speed) = self.stage, self.position, self.meter.end_epoch()
        validation = stage.validate()
        is_best = validation["loss"] < position.best_loss
        if is_best:
            position.best_loss, position.best_step = validation["loss"], position.step
            position.best_train_loss = loss
        numbers = {f"val/{name}": value for name, value in validation.items()}
        self.tracker.log(numbers, position.step)
        # Log.
        main_ones = {n: v for n, v in validation.items() if not n.startswith("accuracy_")}
        shown = "  ".join(f"val {name} {value:.4f}" for name, value in main_ones.items())
        log.info(
            "epoch %d/%d  step %d  loss %.4f  %s  best %.4f  lr %.2e  %.0f images/s",
            math.ceil(position.step / stage.steps_per_epoch),
            math.ceil(self.total / stage.steps_per_epoch),
            position.step,
            loss,
            shown,
            position.best_loss,
            stage.learning_rate(position.step - 1),
            speed,
        )
        self.last_line = self.clock()
        self._log_stall(loss)
        # Write checkpoint and preview.
        if self.processes.is_main and self.config.keeps_best and is_best:
            path = self.run.best(stage.name)
            save_checkpoint(path, stage.kind, stage.checkpoint(position.step))
        if self.processes.is_main and self._is_save_point():
            self._publish(self.config.keep_checkpoints)
        self._evaluate(stop)
        self.meter.restart_clock()

    def _evaluate(self, stop: StopRequest) -> None:
        """Score samples, if it is due, and keep the checkpoint with the lowest FID.

        That takes long, and whoever sends a signal may kill the process some seconds later.
        """
        evaluation, position, stage = self.evaluation, self.position, self.stage
        epoch = math.ceil(position.step / stage.steps_per_epoch)
        if evaluation is None or (epoch % evaluation.every and position.step != self.total):
            return
        with self.processes.main_first():  # the others wait, however long it takes
            if not self.processes.is_main:
                return
            try:
                with cut_short(stop):
                    scores = evaluation.measure()
            except Stopped:
                log.info(
                    "stopped by a signal: the samples after step %d are not scored", position.step
                )
                return
            numbers = {f"samples/{name}": value for name, value in scores.items()}
            self.tracker.log(numbers, position.step)
            if position.fid_basis != evaluation.basis:
                position.best_fid, position.fid_basis = math.inf, evaluation.basis
            if scores["fid"] < position.best_fid:
                position.best_fid = scores["fid"]
                path = self.run.best(stage.name, "fid")
                save_checkpoint(path, stage.kind, stage.checkpoint(position.step))
            shown = "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
            log.info("samples: %s  best fid %.4f", shown, position.best_fid)

    def _publish(self, keep: int = 0) -> None:
        """Write checkpoint and preview; `keep` as in `publish`."""
        publish_checkpoint(self.stage, self.run, self.position, self.config, keep)
        picture = self.run.preview(self.stage.name, self.position.step)
        self.stage.preview(picture)
        if self.stage.previews_are_generated:
            self.tracker.log_image("samples", picture, self.position.step)
        self.has_picture = True

    def _log_stall(self, loss: float) -> None:
        """Log a line if the validation loss has not fallen for many epochs; end if asked to."""
        position, per_epoch = self.position, self.stage.steps_per_epoch
        epochs = (position.step - position.best_step) // per_epoch
        many = max(STALLED_EPOCHS, math.ceil(STALLED_SHARE * self.config.epochs))
        if epochs and epochs % many == 0:
            overfits = loss < position.best_train_loss
            log.info(
                "the validation loss has not fallen for %d epochs: it was lowest after epoch %d "
                "(`publish` best or both keeps that checkpoint)%s",
                epochs,
                position.best_step // per_epoch,
                "; the training loss fell: the model overfits" if overfits else "",
            )
        if self.config.early_stop and epochs >= self.config.early_stop:
            log.info("`early_stop` %d: the run ends after step %d", epochs, position.step)
            position.length = position.step

    def _save_or_stop(self, stop: StopRequest) -> None:
        """Save the state when it is due; after a signal to any process, save and stop them all."""
        # All processes must decide the same, even if only one got a signal or saw the time pass.
        is_late = self.clock() - self.last_save > 60 * SAVE_EVERY_MINUTES
        signal_number, overdue = self.processes.largest(stop.signal_number, is_late)
        if signal_number or overdue or self._is_save_point():
            self.meter.check()
            if self.processes.is_main:
                self._save_state()
                if not self._is_save_point():  # `_end_epoch` has written the checkpoint there
                    if signal_number:
                        publish_checkpoint(self.stage, self.run, self.position, self.config)
                    else:
                        self._publish()
            self.processes.wait()
            self.last_save = self.clock()
            self.meter.restart_clock()
        if signal_number:
            log.info(
                "stopped by a signal after step %d of %d; the state and %s are saved (continue "
                "with `resume`)",
                self.position.step,
                self.total,
                self.run.published(self.stage.name),
            )
            raise SystemExit(exit_code(signal_number))

    def _is_save_point(self) -> bool:
        """Return whether checkpoint, preview and state are written after this step."""
        step, save_every = self.position.step, self.config.save_every_epochs
        return step % (save_every * self.stage.steps_per_epoch) == 0 or step == self.total

    def _save_state(self) -> None:
        """Write the state that `load_state` reads."""
        self.tracker.sync()  # the state counts the rows, so they must be on the disk first
        save_state(self.stage, self.run, self.position)

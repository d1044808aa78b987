"""Trains a stage in the folder of a new or resumed run, and records the run's settings."""

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from training.config import LoopConfig
from training.learning_rate import capped_warmup
from training.loop import Position, Stage, load_state, train_loop
from training.run_folder import RunFolder
from training.tracking import Trackers, open_trackers
from utils.errors import UserError
from utils.files import (
    exclusive_lock,
    make_folder,
    read_json,
    remove_leftovers,
    write_json_atomic,
)
from utils.processes import ALONE, Processes

log = logging.getLogger(__name__)

MADE_FROM = "made_from"  # entry of a stage's settings in config.json


@dataclass(frozen=True)
class RunRecord:
    """What config.json keeps about a stage of a run: plain data, by the names of options.

    Attributes:
        settings: settings of the stage.
        made_from: what the run depends on apart from its settings, by name; stored among the
            settings under the key MADE_FROM.
        planned: settings of the stages that the same command trains later, by stage.
        private: names of settings that may not leave the machine: paths.
        epochs_name: name of the setting that holds the number of epochs.
    """

    settings: Mapping[str, Any]
    made_from: Mapping[str, Any]
    planned: Mapping[str, Mapping[str, Any]]
    private: frozenset[str]
    epochs_name: str

    def entry(self) -> dict[str, Any]:
        """Return the stage's entry for config.json."""
        return {**self.settings, MADE_FROM: dict(self.made_from)}

    def public(self) -> dict[str, Any]:
        """Return the part of the entry that may leave the machine."""
        return {name: value for name, value in self.entry().items() if name not in self.private}


def run_stage(
    stage: Stage,
    run: RunFolder,
    config: LoopConfig,
    record: RunRecord,
    *,
    use_wandb: bool,
    processes: Processes = ALONE,
) -> None:
    """Train a stage in the run's folder, from its last state if there is one.

    Args:
        stage: the stage before its first step.
        run: the run folder.
        config: settings of the loop.
        record: what config.json keeps about the stage.
        use_wandb: whether metrics and generated images also go to Weights & Biases.
        processes: this process among those that train together.

    Raises:
        UserError: if another job trains in the folder, the run was made from other data, or
            training cannot go on.
    """
    busy = f"another job is training in {run.path}; choose another `run_name` or `output_dir`"
    lock = exclusive_lock(make_folder(run.path) / ".lock", busy)
    with lock if processes.is_main else nullcontext():
        if processes.is_main:
            for folder in (run.path, run.samples):
                remove_leftovers(folder)
        # Continue from the last state.
        position = _start(stage, run, record)
        if position.step != processes.from_main(lambda: position.step):
            raise UserError(f"{run.path} is not the same folder for all processes: share it")
        if position.step >= config.epochs * stage.steps_per_epoch:
            log.info("%s is trained already, for %d epochs", stage.name, config.epochs)
            return

        # Write the record and open the trackers; then train.
        tracker = Trackers()
        if processes.is_main:
            _write_record(run, stage.name, record)
            tracker, position.wandb_id = open_trackers(
                run.metrics(stage.name),
                position.step,
                run.path if use_wandb else None,
                f"{run.path.name}-{stage.name}",
                record.public(),
                position.wandb_id,
            )
        _log_capped_warmup(stage)
        try:
            train_loop(stage, config, run, tracker, position, processes)
        finally:
            tracker.close()
        log.info("written: %s", run.published(stage.name))


def _start(stage: Stage, run: RunFolder, record: RunRecord) -> Position:
    """Load the state that the run continues from, if there is one; return its position."""
    if not run.resume_state(stage.name).is_file():
        return Position()
    stored = read_json(run.config)[stage.name]
    _check_made_from(record.made_from, stored.get(MADE_FROM, {}), run)
    position = load_state(stage, run)
    log.info("%s continues after step %d", stage.name, position.step)
    before, now = (settings[record.epochs_name] for settings in (stored, record.settings))
    if now > before:
        _log_new_learning_rate(stage, position.step, before, now)
    return position


def _write_record(run: RunFolder, stage: str, record: RunRecord) -> None:
    """Write the stage's entry in config.json.

    Stages that the same command trains later get an entry too, unless they have started before. So
    their options are not lost if the command stops in this stage.
    """
    planned = {
        name: dict(settings)
        for name, settings in record.planned.items()
        if not run.resume_state(name).is_file()
    }
    write_json_atomic(run.config, {**read_json(run.config), stage: record.entry(), **planned})


def _check_made_from(
    made_from: Mapping[str, Any], stored: Mapping[str, Any], run: RunFolder
) -> None:
    """Refuse to continue a run with another tokenizer or with other images."""
    for name, value in made_from.items():
        if stored.get(name, value) != value:
            raise UserError(
                f"the {name} of the run in {run.path} were {stored[name]}, now they are {value}: "
                "give the run's own `checkpoint_vae` and `data_dir`, or start another `run_name`"
            )


def _log_capped_warmup(stage: Stage) -> None:
    """Log a line if the warm-up is shorter than its setting."""
    rate = stage.learning_rate
    used = capped_warmup(rate.warmup_epochs, rate.epochs)
    if used < rate.warmup_epochs:
        log.info(
            "`%s.warmup_epochs` %g: %g epochs of warm-up, a tenth of the run",
            type(stage.training).__name__,
            rate.warmup_epochs,
            used,
        )


def _log_new_learning_rate(stage: Stage, step: int, before: int, now: int) -> None:
    """Log how the new number of epochs changes the learning rate of the next step."""
    log.info(
        "%d epochs instead of %d: the learning rate is now %.3g, before it was %.3g",
        now,
        before,
        stage.learning_rate(step),
        stage.learning_rate(step, before),
    )

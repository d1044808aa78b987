"""Opens the folder of a new or resumed run to train a stage in it."""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace

from training.charts import CurvePicture
from training.config import LoopConfig, TrainingConfig, VQGANTrainingConfig
from training.loop import Evaluation, Loop
from training.run_folder import RunFolder
from training.run_record import (
    OF_IMAGES,
    STAGES,
    RunRecord,
    check_made_from,
    read_config,
    store,
)
from training.stage import (
    Position,
    Stage,
    load_position,
    load_state,
    publish_checkpoint,
    run_length,
    save_state,
)
from training.tracking import MetricsFile, Tracker, Trackers, WandbTracker
from utils.checkpoint import load_checkpoint
from utils.errors import UserError, counted
from utils.files import exclusive_lock, make_folder, remove_leftovers
from utils.processes import ALONE, Processes
from utils.progress import log_written
from utils.records import checksum

log = logging.getLogger(__name__)


@contextmanager
def _locked(run: RunFolder) -> Iterator[None]:
    """Make the folders of a run, and keep other jobs out of them in the block."""
    make_folder(run.path)
    busy = f"another job is training in {run.path}; choose another `run_name` or `output_dir`"
    with exclusive_lock(run.lock, busy):
        remove_leftovers(run.path)
        make_folder(run.samples)  # a preview that cannot be written would end the training
        yield


def keep_settings(stage: str, run: RunFolder, record: RunRecord) -> None:
    """Write the settings of a new run before its work begins: its tokens may take hours.

    Raises:
        UserError: if another job trains in the folder.
    """
    if record.continues is None:
        with _locked(run):
            _check_unchanged(stage, run, record)
            store(run, stage, record)


def steps_made(stage: str, run: RunFolder, record: RunRecord) -> int:
    """Return how many steps a run has made in its last saved state."""
    if record.continues is None:
        return 0
    with _way_out(stage, run):
        return load_position(stage, run).step


def has_steps_left(stage: str, run: RunFolder, record: RunRecord, length: int) -> bool:
    """Return whether a run will make steps; `length` is their number in all its epochs."""
    if record.continues is None:
        return True
    with _way_out(stage, run):
        position = load_position(stage, run)
    return position.step < ((not record.is_longer and position.length) or length)


@contextmanager
def opened(
    stage: Stage,
    run: RunFolder,
    config: LoopConfig,
    record: RunRecord,
    *,
    processes: Processes = ALONE,
    evaluation: Evaluation | None = None,
) -> Iterator[Loop]:
    """Open a run's folder to train a stage in it, from its last saved state if it has one.

    Args:
        stage: the stage before its first step.
        evaluation: scores samples as the run goes; None does not.

    Yields:
        The loop to run in the block. If the stage is trained already, it makes no steps.

    Raises:
        UserError: if another job trains in the folder, or has trained there since the record was
            made; if the run was made from other data; or if training fails.
    """
    with _locked(run) if processes.is_main else nullcontext():
        if processes.is_main:
            _check_unchanged(stage.name, run, record)
        # Continue from the last state.
        position = _start(stage, run, record)
        if position.step != processes.from_main(lambda: position.step):
            raise UserError(f"{run.path} is not the same folder for all processes: share it")
        if position.step >= run_length(stage, config, position):
            epochs = counted(position.step / stage.steps_per_epoch, "epoch")
            more = f"a larger `{record.epochs_name}`"
            if position.length:  # it stopped early
                more = f"`early_stop` 0 or {more}"
            if config.ends_at is not None:  # the time decided the number of epochs
                more = f"another `run_name` with `{type(stage.training).__name__}.init`"
            text = "%s has already been trained for %s: %s trains it further"
            log.info(text, stage.name, epochs, more)
            if processes.is_main:
                _mend_checkpoint(stage, run, position, config)
            yield Loop(stage, config, run, Trackers(), position, processes)
            return

        # Write the record, and train.
        tracker = Trackers()
        if processes.is_main:
            if record.is_longer:  # first, so that a record never describes an older state
                save_state(stage, run, position)
            store(run, stage.name, record)
            tracker = _open_trackers(stage.name, run, record, position, config.use_wandb)
        if config.ends_at is None:
            _log_capped_warmup(stage)
        try:
            yield Loop(stage, config, run, tracker, position, processes, evaluation)
        finally:
            tracker.close()
        _log_results(stage, run, config, position)


def _log_results(stage: Stage, run: RunFolder, config: LoopConfig, position: Position) -> None:
    """Log the files with the weights, and after which steps these had been trained."""
    best, has_best = position.best_step, run.best(stage.name).is_file()
    shown = best if config.publish == "best" and has_best else position.step
    about = f"after step {shown}"
    if best not in (0, position.step):
        about += f"; the validation loss was lowest after step {best}"
        about += "" if shown == best else ": `publish` best takes those weights"
    log_written(run.published(stage.name), about)
    if config.publish == "both" and has_best:
        log_written(run.best(stage.name), f"after step {best}")
    if (path := run.best(stage.name, "fid")).is_file():
        log_written(path, f"the lowest FID while training, {position.best_fid:.4f}")


def _open_trackers(
    stage: str, run: RunFolder, record: RunRecord, position: Position, use_wandb: bool
) -> Trackers:
    """Open the trackers; this may set the position's id at Weights & Biases.

    An id belongs to the folder where it was created: a copy of the folder is another run. A copy
    has neither the path nor the inode number of the folder.
    """
    trackers: list[Tracker] = [MetricsFile(run.metrics(stage), position.step)]
    if use_wandb:
        home = checksum(str(run.path.resolve())), checksum(run.path.stat().st_ino)
        if position.wandb_home and not set(home) & set(position.wandb_home):
            log.info("%s is a copy of another folder: starting a new wandb run", run.path)
            position.wandb_id = None
        name = f"{run.path.name}-{stage}"
        wandb = WandbTracker(run.path, name, record.public(), position.wandb_id)
        position.wandb_id, position.wandb_home = wandb.run_id, home
        trackers.append(wandb)
    # Last, because it reads the metrics file.
    trackers.append(CurvePicture(run.curves(stage), run.metrics(stage), stage))
    return Trackers(*trackers)


def _mend_checkpoint(stage: Stage, run: RunFolder, position: Position, config: LoopConfig) -> None:
    """Write the checkpoint of a finished training again if it is missing or damaged."""
    try:
        load_checkpoint(run.published(stage.name), stage.kind)
    except UserError as error:
        log.warning("%s; it is written again from the saved state", error)
        publish_checkpoint(stage, run, position, config)


def check_alone(run: RunFolder, stage: str) -> None:
    """Refuse a folder where another stage writes the same checkpoint.

    Raises:
        UserError: naming the stage.
    """
    result = run.published(stage)
    for other in STAGES:
        if other != stage and run.published(other) == result and run.resume_state(other).is_file():
            raise UserError(
                f"{run.path} holds a {other} run, which also writes {result.name}; nothing is "
                "overwritten: choose another `run_name` or `output_dir`"
            )


def _check_unchanged(stage: str, run: RunFolder, record: RunRecord) -> None:
    """Refuse a run that another job has started or changed since this job read it.

    Hours may have passed while the images were tokenized. Now the folder is locked.
    """
    check_alone(run, stage)
    has_state = run.resume_state(stage).is_file()
    if record.continues is None and (has_state or run.published(stage).exists()):
        raise UserError(
            f"another job has trained a {stage} run in {run.path} since this one began: `resume` "
            "continues it; another `run_name` or `output_dir` starts a new one"
        )
    found = read_config(run).get(stage) if has_state else None
    if record.continues is not None and found != record.continues:
        raise UserError(
            f"another job has changed the {stage} run in {run.path} since this one began: run "
            "the command again"
        )


def _start(stage: Stage, run: RunFolder, record: RunRecord) -> Position:
    """Load the state that the run continues from, if any; return its position."""
    stored = record.continues
    if stored is None:
        return Position()
    checked = OF_IMAGES if record.has_new_images else set()  # already, with the earlier images
    made_from = {k: value for k, value in record.made_from.items() if k not in checked}
    check_made_from(made_from, stored, run)
    with _way_out(stage.name, run):
        position = load_state(stage, run)
    log.info("%s continues after step %d", stage.name, position.step)
    if record.has_new_images:  # also for validation: its loss cannot be compared with earlier ones
        position.best_loss = math.inf
        steps = counted(stage.steps_per_epoch, "step")
        log.info("an epoch has %s with the new images", steps)
    if record.is_longer:
        position.length = 0
    now = record.settings[record.epochs_name]
    before = stored.get(record.epochs_name, now)
    if now > before:
        _log_new_learning_rate(stage, position.step, before, now)
    return position


@contextmanager
def _way_out(name: str, run: RunFolder) -> Iterator[None]:
    """Add to an error of a stage's saved state what can still be done with the run."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{error}; {_without_state(name, run)}") from error


def _without_state(name: str, run: RunFolder) -> str:
    """Say what can be done with a run of a stage whose state is damaged."""
    published = run.published(name)
    config = {"vqgan": VQGANTrainingConfig, "maskgit": TrainingConfig}.get(name)
    try:
        load_checkpoint(published, "vqgan" if name == "vqgan" else "maskgit")
    except UserError as error:
        return f"{error}; start another `run_name`"
    weights = f" with `{config.__name__}.init` {published}" if config else ""
    return f"{published} is intact; start another `run_name`{weights}"


def _log_capped_warmup(stage: Stage) -> None:
    """Log a line if the warm-up is shorter than its setting."""
    rate = stage.learning_rate
    used = rate.capped_warmup
    if used < rate.warmup_epochs:
        log.info(
            "`%s.warmup_epochs` %g: %s of warm-up, a tenth of the run",
            type(stage.training).__name__,
            rate.warmup_epochs,
            counted(used, "epoch"),
        )


def _log_new_learning_rate(stage: Stage, step: int, before: int, now: int) -> None:
    """Log how the new number of epochs changes the learning rate of the next step."""
    log.info(
        "%d epochs instead of %d: the learning rate is now %.3g, before it was %.3g",
        now,
        before,
        stage.learning_rate(step),
        replace(stage.learning_rate, epochs=before)(step),
    )

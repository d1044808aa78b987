"""Runs: starting one, continuing one, and what is written down about it."""

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from utils.distributed import Processes
from utils.errors import UserError
from utils.files import (
    exclusive_lock,
    make_folder,
    read_json,
    remove_leftovers,
    write_json_atomic,
)
from utils.loop import LoopConfig, Position, Stage, load_state, train_loop
from utils.options import Options
from utils.run_folder import RunFolder
from utils.run_options import (
    EXTENDABLE,
    MADE_FROM,
    STAGE_MODES,
    planned_options,
    resumed_options,
    run_options,
    without_paths,
)
from utils.schedule import capped_warmup
from utils.tracking import Trackers, open_trackers

log = logging.getLogger(__name__)


def continued_options(options: Options, stage: str, run: RunFolder) -> Options:
    """The options of the run that --resume continues, or those given if there is none.

    Args:
        options: the command line.
        stage: "vqgan" or "maskgit".
        run: the folder.

    Raises:
        UserError: if a run lies in the folder and --resume is not given, or an option contradicts
            the run that is resumed.
    """
    state, published = run.resume_state(stage), run.published(stage)
    elsewhere = "--run_name or --output_dir starts another one elsewhere"
    if not options.resume and (state.is_file() or published.exists()):
        raise UserError(
            f"{run.path} already holds a {stage} run: --resume continues it; {elsewhere}"
        )
    if not state.is_file() and published.exists():
        raise UserError(
            f"{published} is there but {state.name}, from which it would be resumed, is not: "
            f"nothing is overwritten; {elsewhere}"
        )
    if not options.resume:
        return options
    stored = read_json(run.config).get(stage)
    if not state.is_file():
        log.info("nothing to resume in %s: a new %s run starts", run.path, stage)
        return options if stored is None else planned_options(options, stored)
    if stored is None:
        raise UserError(
            f"{run.config} does not say with which options {state.name} was made, so it cannot be "
            f"resumed; {elsewhere}"
        )
    return resumed_options(options, stored, stage, run.path)


def run_stage(
    stage: Stage,
    options: Options,
    run: RunFolder,
    made_from: Mapping[str, Any],
    epochs: int,
    images_per_step: int,
    processes: Processes,
) -> None:
    """Train a stage in the run's folder, from its last state if there is one.

    Args:
        stage: as it is before its first step.
        options: of the run.
        run: its folder.
        made_from: what the run depends on beside its options, by name; kept with these.
        epochs: in all.
        images_per_step: over all processes.
        processes: those that train together.

    Raises:
        UserError: if another job trains in the folder, or training cannot go on.
    """
    busy = f"another job is training in {run.path}; choose another --run_name or --output_dir"
    lock = exclusive_lock(make_folder(run.path) / ".lock", busy)
    with lock if processes.is_main else nullcontext():
        if processes.is_main:
            for folder in (run.path, run.samples):
                remove_leftovers(folder)
        position = Position()
        settings = {**run_options(options, stage.name), MADE_FROM: dict(made_from)}
        if run.resume_state(stage.name).is_file():
            stored = read_json(run.config)[stage.name]
            _check_made_from(made_from, stored.get(MADE_FROM, {}), run.path)
            position = load_state(stage, run)
            log.info("%s continues after step %d", stage.name, position.step)
            _tell_new_schedule(stage, position.step, stored, settings)
        if position.step != processes.from_main(lambda: position.step):
            raise UserError(f"{run.path} is not the same folder for all processes: share it")
        if position.step >= epochs * stage.steps_per_epoch:
            log.info("%s is trained already, for %d epochs", stage.name, epochs)
            return
        tracker = Trackers()
        if processes.is_main:
            tracker = _open_record(options, run, stage.name, settings, position)
        config = LoopConfig(
            epochs=epochs,
            images_per_step=images_per_step,
            save_every_epochs=options.sample_and_save_freq,
            save_every_minutes=options.save_every_minutes,
            keep_checkpoints=options.keep_checkpoints,
        )
        _tell_capped_warmup(options, stage.name, epochs)
        try:
            train_loop(stage, config, run, tracker, position, processes)
        finally:
            tracker.close()
        log.info("written: %s", run.published(stage.name))


def _open_record(
    options: Options, run: RunFolder, stage: str, settings: Mapping[str, Any], position: Position
) -> Trackers:
    """Write down what a run is made of and open what takes its numbers.

    A stage that is to follow is written down too, so that resuming this one does not lose it.
    """
    record = read_json(run.config)
    for name, mode in STAGE_MODES.items():
        if getattr(options, mode) and not run.resume_state(name).is_file():
            record[name] = run_options(options, name)
    write_json_atomic(run.config, {**record, stage: settings})
    tracker, position.wandb_id = open_trackers(
        run.metrics(stage),
        position.step,
        None if options.no_wandb else run.path,
        f"{run.path.name}-{stage}",
        without_paths(settings),
        position.wandb_id,
    )
    return tracker


def _check_made_from(made_from: Mapping[str, Any], stored: Mapping[str, Any], run: Path) -> None:
    """Refuse to continue a run with another tokenizer or with other images."""
    for name, value in made_from.items():
        if stored.get(name, value) != value:
            raise UserError(
                f"the {name} of the run in {run} were {stored[name]}, now they are {value}: "
                "give the run's own --checkpoint_vae and --data_dir, or start another --run_name"
            )


def _tell_capped_warmup(options: Options, stage: str, epochs: int) -> None:
    """Say so if the warm-up is shorter than the option says."""
    name = "warmup_vae" if stage == "vqgan" else "warmup"
    wanted = getattr(options, name)
    used = capped_warmup(wanted, epochs)
    if used < wanted:
        log.info("--%s %g: %g epochs of warm-up, a tenth of the run", name, wanted, used)


def _tell_new_schedule(
    stage: Stage, step: int, stored: Mapping[str, Any], settings: Mapping[str, Any]
) -> None:
    """Say how more epochs than before change the learning rate of the next step."""
    name = EXTENDABLE[stage.name]
    before, now = stored[name], settings[name]
    if now > before:
        log.info(
            "%d epochs instead of %d: the learning rate is now %.3g, before it was %.3g",
            now,
            before,
            stage.learning_rate(step),
            stage.learning_rate(step, before),
        )

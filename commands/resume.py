"""--resume: the options that a run keeps in config.json, and how a resumed run uses them."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from commands.flags import options_of
from commands.option import Resume
from commands.options import AUTO, OPTIONS
from commands.parser import CommandLine
from commands.request import Request, run_folder
from commands.stages import STAGE_OPTIONS
from data.datasets import DATASETS
from models.sampling import SamplingConfig
from training.config import OPTIMIZERS
from training.learning_rate import DECAYS
from training.run_folder import RunFolder
from training.run_record import CLASS_NAMES, MADE_FROM, RunRecord, read_config
from training.runs import check_alone
from utils.checkpoint import load_checkpoint
from utils.errors import UserError, value_text
from utils.hub import hub_name
from utils.plain import same_value
from utils.size import Size, size_text

log = logging.getLogger(__name__)

# Fields of a training without an option: their choices, and the decay of runs that do not keep it.
FIELD_CHOICES: Mapping[str, Collection[str]] = {"decay": DECAYS, "optimizer": OPTIMIZERS}
FORMER_DECAY = {"decay": "cosine"}
FORMER = "save_every_minutes"  # option of version 0.1.0 whose value has no effect
CACHE_FOLDER = "cache_dir"

Settings = Mapping[str, Any]
"""The settings of a stage in config.json: its options, and `made_from`."""


def apply_resume(line: CommandLine) -> tuple[CommandLine, dict[str, Settings]]:
    """Fill in the options of the run that --resume continues.

    Returns:
        The new command line, and for each stage that continues its settings in config.json.

    Raises:
        UserError: if a training would overwrite a run, or an option contradicts the run.
    """
    run = run_folder(line, line.dataset)
    continued: dict[str, Settings] = {}
    for stage, of_stage in STAGE_OPTIONS.items():
        if line.asks_for(of_stage.mode):
            line, settings = _apply_to_stage(line, stage, run)
            continued |= {stage: settings} if settings is not None else {}
    return line, continued


def _apply_to_stage(
    line: CommandLine, stage: str, run: RunFolder
) -> tuple[CommandLine, Settings | None]:
    """Fill in the options of one stage; returns and raises as `apply_resume`."""
    stored = read_config(run).get(stage) if line.resume else None
    if stored and "dataset" not in line.given and stored.get("dataset") in DATASETS:
        run = RunFolder(run.path, stored["dataset"])  # its files are named by it
    # Refuse to overwrite a run.
    state, published = run.resume_state(stage), run.published(stage)
    elsewhere = "--run_name or --output_dir starts another one elsewhere"
    if not line.resume and state.is_file():
        raise UserError(
            f"{run.path} already holds a {stage} run: --resume continues it; {elsewhere}"
        )
    check_alone(run, stage)
    init = options_of(STAGE_OPTIONS[stage].config).get("init")
    from_it = f", with --{init} {published} from its weights" if init else ""
    if not state.is_file() and published.exists():
        raise UserError(
            f"{published} exists, but {state.name}, from which it would be resumed, is missing; "
            f"nothing is overwritten; {elsewhere}{from_it}"
        )
    if not line.resume:
        return line, None
    # Take the options that config.json keeps.
    has_begun = state.is_file()
    if stored is None and has_begun:
        raise UserError(
            f"{run.config} does not hold the options of {state.name}, so the run cannot be "
            f"resumed; {elsewhere}"
        )
    if stored is None:
        log.info("nothing to resume in %s: a new %s run starts", run.path, stage)
        return line, None
    if not has_begun:
        log.info("the %s run in %s has not begun: it starts with its options", stage, run.path)
    line = take_over_options(line, stored, stage, run, has_begun=has_begun)
    return line, stored if has_begun else None


def run_options(line: CommandLine, stage: str) -> dict[str, Any]:
    """Return the options that a run of a stage keeps, by name.

    Paths become absolute, and those in the cache of the hub become names of files there.
    """
    kept = {}
    for option in STAGE_OPTIONS[stage].kept(vars(line.values), line.given):
        value = getattr(line, option.name)
        if option.is_path and value:
            value = hub_name(value) or str(Path(value).absolute())
        kept[option.name] = value
    return kept


def run_record(
    request: Request,
    line: CommandLine,
    stage: str,
    made_from: Mapping[str, Any],
    size: Size,
    files: Mapping[str, Mapping[str, int]] | None = None,
) -> RunRecord:
    """Make the record of a stage for config.json.

    Args:
        line: the options that the run keeps.
        stage: one of `training.run_record.STAGES`.
        made_from: what the run depends on apart from its options, by name.
        size: of its images.
        files: as in `RunRecord`; None for a set that cannot grow.
    """
    line, continues = line.replace(size=size_text(size)), request.continued.get(stage)
    paths = {option.name for option in OPTIONS.values() if option.is_path}
    of_classes = {CLASS_NAMES, "labels", "validation"}
    return RunRecord(
        settings=run_options(line, stage),
        made_from=dict(made_from),
        private=frozenset(paths | of_classes),
        epochs_name=STAGE_OPTIONS[stage].epochs,
        continues=continues,
        files=files or {},
        has_new_images=line.new_images and continues is not None,
    )


def take_over_options(
    line: CommandLine, stored: Settings, stage: str, run: RunFolder, *, has_begun: bool = True
) -> CommandLine:
    """Take over the options of a resumed run, and refuse other values once it has begun.

    Accepted are more epochs, any value of an option with Resume.FREE, "auto" for the value that it
    became in the run, and any value where an earlier version kept "auto". Before the run has begun
    only another family or optimizer is refused.

    Raises:
        UserError: naming the option and both values, if an option contradicts the run; or if a run
            cannot have written `stored`.
    """
    now = run_options(line, stage)
    kept = _kept_options(line, stored, stage, run.config)
    # The defaults of others follow from these, and the run has written those down.
    fixed = {STAGE_OPTIONS[stage].makes, "optimizer"}
    # Runs of earlier versions do not keep options that are newer.
    for name in line.given & now.keys() - kept.keys():
        kept[name] = OPTIONS[name].default_value
    # With a time limit the number of epochs has no effect; `check_training` refuses another one.
    is_timed = kept.get("minutes") and STAGE_OPTIONS[stage].mode in OPTIONS["minutes"].modes
    taken = {}
    for name, value in kept.items():
        may_grow = OPTIONS[name].resume is Resume.GROW
        is_free = (not has_begun and name not in fixed) or (may_grow and is_timed)
        may_change = is_free or OPTIONS[name].resume is Resume.FREE
        if name not in line.given or now[name] == AUTO:
            taken[name] = value
        elif may_change or (may_grow and now[name] >= value):
            continue
        elif value != AUTO and not same_value(now[name], value):
            is_off = value is None or value is False
            before = "without it" if is_off else f"with {value_text(value)}"
            larger = ", take a larger number" if may_grow else ""
            raise UserError(
                f"--{name} {value_text(now[name])}: the run in {run.path} was started {before}; "
                f"leave it out{larger}, or start another --run_name"
            )
    # These options count as given again: those that say how to read another program's file, and
    # those of sampling, for which a student has its own values.
    of_sampling = set(options_of(SamplingConfig).values()) if stage == "student" else set()
    given = line.given | (taken.keys() & (STAGE_OPTIONS[stage].reading | of_sampling))
    return replace(line.replace(**taken), given=given)


def _kept_options(line: CommandLine, stored: Settings, stage: str, file: Path) -> dict[str, Any]:
    """Read the options of a run from its config.json, which may come from anybody.

    Only options of the stage are read, and only values that the command line accepts. None of them
    names code to run or a place to write: a folder for token caches is used only if it already
    holds token caches.

    Returns:
        The value of every stored option, by name.

    Raises:
        UserError: naming something that is not an option of the stage, or a value that its option
            does not accept.
    """
    of_stage = STAGE_OPTIONS[stage]
    known = {option.name: option for option in of_stage.kept(stored, of_stage.reading)}
    kept: dict[str, Any] = {}
    for name, value in stored.items():
        if name in (MADE_FROM, FORMER):
            continue
        try:
            if name not in known:
                raise UserError(f"{name!r} is not an option of this stage")
            kept[name] = known[name].read_plain(value)
        except UserError as error:
            raise UserError(
                f"{file}: {error}; the file was edited: restore it from a copy, or start another "
                "--run_name"
            ) from error
    _leave_out_places(kept, line)
    return kept


def _leave_out_places(kept: dict[str, Any], line: CommandLine) -> None:
    """Leave out folders that the program would write to; the user can name them again."""
    if line.asks_for("download_only"):
        kept.pop("data_dir", None)
    folder = kept.get(CACHE_FOLDER)
    if not folder or CACHE_FOLDER in line.given:
        return
    is_ours = Path(folder).resolve().is_relative_to(Path(line.output_dir).resolve())
    caches = ("*-*-*/tokens.npy", "*-*-*.partial/block_*.pt")  # finished and unfinished ones
    if not is_ours and not any(any(Path(folder).glob(cache)) for cache in caches):
        del kept[CACHE_FOLDER]
        log.info(
            "--%s %s of the run holds no token caches and is left out: give the option again to "
            "use this folder",
            CACHE_FOLDER,
            folder,
        )


def kept_fields(request: Request, stage: str, usual: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a training that have no option, if the family has values for them.

    A run keeps these values in `made_from`: it goes on with its own if the family has others then.

    Args:
        stage: one of `training.run_record.STAGES`.
        usual: the values of the family, by field; other fields are ignored.

    Raises:
        UserError: if config.json of the run that continues was edited.
    """
    config = STAGE_OPTIONS[stage].config
    names = [field.name for field in fields(config) if field.name not in options_of(config)]
    values = {name: usual[name] for name in names if name in usual}
    if stage in request.continued:
        stored = FORMER_DECAY | request.continued[stage].get(MADE_FROM, {})
        values |= {name: stored[name] for name in values.keys() & stored.keys()}
    for name, value in values.items():
        if type(value) is not type(usual[name]) or value not in FIELD_CHOICES.get(name, [value]):
            raise UserError(f"{request.run().config} is damaged: its {name} is {value_text(value)}")
    return values


def class_order(
    continues: Settings, run: RunFolder, stage: str, class_names: Sequence[str]
) -> list[str]:
    """Put the names of the classes into the order that they have in a run.

    New names follow them, or take the places of the names that are missing now. So a message can
    say which class has another name.
    """
    order = former_classes(continues, run, stage) or sorted(class_names)
    new = [name for name in class_names if name not in order]
    if len(order) + len(new) == len(class_names):  # classes were added
        return [*order, *new]
    if len(order) != len(class_names):
        return list(class_names)
    others = iter(new)
    return [name if name in class_names else next(others) for name in order]


def former_classes(continues: Settings, run: RunFolder, stage: str) -> list[str]:
    """Return the names of the classes of a run in the order of their labels; empty if unknown."""
    order = continues.get(MADE_FROM, {}).get(CLASS_NAMES)
    # Earlier versions kept the names only in the checkpoint, and sorted them as texts.
    if order is None and run.published(stage).is_file():
        order = load_checkpoint(run.published(stage), stage).get(CLASS_NAMES)
    return order if isinstance(order, list) else []

"""--resume: which options a run keeps in config.json, and how a resumed run takes them over."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from commands.flags import options_of
from commands.options import OPTIONS, Option, Resume
from commands.parser import CommandLine
from models.maskgit.config import TransformerConfig
from models.vqgan.config import VQGANConfig
from training.config import TrainingConfig, VQGANTrainingConfig
from training.run_folder import RunFolder
from training.runs import MADE_FROM, RunRecord
from utils.errors import UserError, value_text
from utils.files import read_json
from utils.plain import same_value

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageOptions:
    """The options that belong to a stage of training.

    Attributes:
        mode: name of the mode that trains it.
        configs: configs of its network and of its training. The options that fill them are the
            stage's options.
    """

    mode: str
    configs: tuple[type, type]

    @property
    def epochs(self) -> str:
        """Name of the option for the number of epochs."""
        return options_of(self.configs[1])["epochs"]


STAGES = {
    "vqgan": StageOptions("train_vae", (VQGANConfig, VQGANTrainingConfig)),
    "maskgit": StageOptions("train", (TransformerConfig, TrainingConfig)),
}


def apply_resume(line: CommandLine) -> CommandLine:
    """Fill in the options of the run that --resume continues; return the new command line.

    Raises:
        UserError: if a training would overwrite a run, or an option contradicts the run.
    """
    run = RunFolder(Path(line.output_dir) / (line.run_name or line.dataset), line.dataset)
    for stage, of_stage in STAGES.items():
        if line.asks_for(of_stage.mode):
            line = _apply_to_stage(line, stage, run)
    return line


def _apply_to_stage(line: CommandLine, stage: str, run: RunFolder) -> CommandLine:
    """Fill in the options of one stage; errors as in `apply_resume`."""
    # Refuse to overwrite a run.
    state, published = run.resume_state(stage), run.published(stage)
    elsewhere = "--run_name or --output_dir starts another one elsewhere"
    if not line.resume and (state.is_file() or published.exists()):
        raise UserError(
            f"{run.path} already holds a {stage} run: --resume continues it; {elsewhere}"
        )
    if not state.is_file() and published.exists():
        raise UserError(
            f"{published} exists, but {state.name}, from which it would be resumed, is missing; "
            f"nothing is overwritten; {elsewhere}"
        )
    if not line.resume:
        return line
    # Take the options that config.json keeps.
    stored = read_json(run.config).get(stage)
    if not state.is_file():
        log.info("nothing to resume in %s: a new %s run starts", run.path, stage)
        return line if stored is None else _take_planned_options(line, stored)
    if stored is None:
        raise UserError(
            f"{run.config} does not hold the options of {state.name}, so the run cannot be "
            f"resumed; {elsewhere}"
        )
    return take_over_options(line, stored, stage, run.path)


def run_options(line: CommandLine, stage: str) -> dict[str, Any]:
    """Return the options that a run of a stage keeps, by name; paths become absolute."""
    kept = {}
    for option in _options_of_run(line, stage):
        value = getattr(line, option.name)
        kept[option.name] = str(Path(value).absolute()) if option.is_path and value else value
    return kept


def _options_of_run(line: CommandLine, stage: str) -> Iterator[Option]:
    """Yield the options that a run of a stage keeps.

    These are the options of every run, those of the stage, and for the transformer the options that
    say how another program's tokenizer is to be read.
    """
    of_stage = {name for config in STAGES[stage].configs for name in options_of(config).values()}
    of_tokenizer = line.given & set(options_of(VQGANConfig).values())
    for option in OPTIONS.values():
        of_every_run = option.resume in (Resume.RUN, Resume.FREE)
        reads_tokenizer = stage == "maskgit" and option.name in of_tokenizer
        if of_every_run or option.name in of_stage or reads_tokenizer:
            yield option


def run_record(line: CommandLine, stage: str, made_from: Mapping[str, Any]) -> RunRecord:
    """Make the record of a stage for config.json.

    Args:
        line: the command line; its size is that of the run's images, not None.
        stage: "vqgan" or "maskgit".
        made_from: what the run depends on apart from its options, by name.
    """
    stages = [name for name, of_stage in STAGES.items() if line.asks_for(of_stage.mode)]
    return RunRecord(
        settings=run_options(line, stage),
        made_from=dict(made_from),
        planned={name: run_options(line, name) for name in stages if name != stage},
        private=frozenset(option.name for option in OPTIONS.values() if option.is_path),
        epochs_name=STAGES[stage].epochs,
    )


def _take_planned_options(line: CommandLine, stored: Mapping[str, Any]) -> CommandLine:
    """Take the options of a run that was planned but not started; options given now win."""
    return line.replace(
        **{k: v for k, v in stored.items() if k not in line.given and k != MADE_FROM}
    )


def take_over_options(
    line: CommandLine, stored: Mapping[str, Any], stage: str, source: Path
) -> CommandLine:
    """Take over the options of a run that is resumed, and refuse other values.

    Accepted are more epochs, and any value of an option with Resume.FREE.

    Args:
        line: the command line.
        stored: options of the run, by name.
        stage: "vqgan" or "maskgit".
        source: folder of the run, for messages.

    Raises:
        UserError: if an option contradicts the run; names the option and both values.
    """
    now = run_options(line, stage)
    taken = {}
    for name, value in stored.items():
        if name == MADE_FROM:
            continue
        rule = OPTIONS[name].resume if name in OPTIONS else Resume.FORGET
        if name not in line.given:
            taken[name] = value
        elif rule is Resume.FREE or (name == STAGES[stage].epochs and now[name] >= value):
            continue
        elif not same_value(now[name], value):
            raise UserError(
                f"--{name} {value_text(getattr(line, name))} is not what the run in {source} was "
                f"started with ({value_text(value)}); leave it out, or start another --run_name"
            )
    # These options count as given again: they say how another program's tokenizer is read.
    of_tokenizer = taken.keys() & set(options_of(VQGANConfig).values())
    given = line.given | (of_tokenizer if stage == "maskgit" else frozenset())
    return replace(line.replace(**taken), given=given)

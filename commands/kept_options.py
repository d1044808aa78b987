"""The options that a run's config.json keeps, checked like those of a command line.

The file may come from anybody. Only options of the stage are read from it, and only values that the
command line accepts. None of them names code to run or a place to write: a folder for token caches
is used only if it already holds token caches.
"""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from commands.option import Option, Resume
from commands.options import OPTIONS
from commands.parser import CommandLine
from commands.stages import STAGE_OPTIONS
from training.runs import MADE_FROM
from utils.errors import UserError

log = logging.getLogger(__name__)

CACHE_FOLDER = "cache_dir"
FORMER = "save_every_minutes"  # an option of version 0.1.0, a constant now


def options_of_run(
    stage: str, values: Mapping[str, Any], given: frozenset[str]
) -> Iterator[Option]:
    """Yield the options that a run of a stage keeps.

    These are the options of every run, those of the stage, and those that say how to read another
    program's file.

    Args:
        stage: a key of STAGE_OPTIONS.
        values: the values of all options, by name.
        given: names of the options that the user gave. The last kind is kept only if given.
    """
    of_stage = STAGE_OPTIONS[stage].names(values)
    for option in OPTIONS.values():
        of_every_run = option.resume in (Resume.RUN, Resume.FREE)
        reads = option.name in STAGE_OPTIONS[stage].reading & given
        if of_every_run or option.name in of_stage or reads:
            yield option


def kept_options(
    line: CommandLine, stored: Mapping[str, Any], stage: str, file: Path
) -> dict[str, Any]:
    """Read the options of a run from `stored`, the settings of the stage in config.json.

    Returns:
        The value of every stored option, by name.

    Raises:
        UserError: naming something that is not an option of the stage, or a value that its option
            does not accept.
    """
    known = {
        option.name: option
        for option in options_of_run(stage, stored, STAGE_OPTIONS[stage].reading)
    }
    # Runs that do not name a family are from the time when there was only one.
    makes = STAGE_OPTIONS[stage].makes
    kept: dict[str, Any] = {} if makes is None else {makes: OPTIONS[makes].default_value}
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
    if not is_ours and not any(Path(folder).glob("*-*-*/tokens.npy")):
        del kept[CACHE_FOLDER]
        log.info(
            "--%s %s of the run holds no token caches and is left out: give the option again to "
            "use this folder",
            CACHE_FOLDER,
            folder,
        )

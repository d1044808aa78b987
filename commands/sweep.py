"""--sweep: score a model with every combination of sampling options in a grid."""

import difflib
import itertools
import logging
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from commands.flags import changed, option_values, options_of
from commands.generation import (
    Generation,
    changed_options,
    describe_model,
    resolve_generation,
)
from commands.judging import JudgeSource, check_judge, resolve_judge
from commands.model_source import data_of
from commands.options import OPTIONS
from commands.parser import CommandLine
from commands.request import Request
from metrics.better import BETTER
from metrics.sweep_table import SweepTable, varied
from models.model import BEST_SETTINGS, BestSettings
from models.open import own_model
from models.sampling import SamplingConfig
from utils.checkpoint import contents_of, save_checkpoint
from utils.errors import UserError, counted
from utils.files import exclusive_lock, make_folder
from utils.progress import log_written, progress_bar
from utils.records import finite
from utils.torch_file import read_torch_file

log = logging.getLogger(__name__)

SWEPT_IMAGES = 1000  # for each combination


@dataclass(frozen=True)
class SweepJob:
    """A grid to measure.

    Attributes:
        generations: the same images with each combination of settings.
        kept_by: the score that chooses the best settings, which the checkpoint will hold; None
            writes none.
    """

    generations: list[Generation]
    judge: JudgeSource
    folder: Path
    kept_by: str | None


def check(line: CommandLine) -> None:
    """Refuse a grid with a mistake, and a feature network whose file is missing."""
    check_judge(line)
    _grid(line)


def resolve(request: Request) -> SweepJob:
    """Find the model and make the combinations.

    Raises:
        UserError: if the model is missing, or an option does not fit it.
    """
    generation = resolve_generation(request, default_count=SWEPT_IMAGES)
    line, model, series = request.line, generation.model, generation.series
    grid = []
    for values in _grid(line):
        sampling = changed(series.sampling, values)
        sampling.validate_for(model.shape)
        grid.append(replace(generation, series=replace(series, sampling=sampling)))
    if line.keep_best and not model.keeps_settings:
        raise UserError(
            f"--keep_best: {model.path} cannot hold settings; only the .pt file that --train "
            "or --distill wrote can, outside the cache of the hub"
        )
    data = data_of(request, model)
    judge = resolve_judge(request, data, count=len(series.labels))
    return SweepJob(grid, judge, model.run.path / "sweep", line.keep_best)


def describe(job: SweepJob) -> dict[str, Any]:
    """Return what --dry_run prints about this Job."""
    first, *_ = job.generations
    usual = SamplingConfig.usual_for(first.model.shape)
    return {
        **describe_model(first.model),
        "combinations": f"{len(job.generations)} of {counted(len(first.series.labels), 'image')}",
        "grid": "; ".join(changed_options(one.series.sampling, usual) for one in job.generations),
    }


def run(job: SweepJob) -> None:
    """Score the combinations that are not in the table yet, and print what differs."""
    # The table belongs to one protocol, and to one job at a time.
    count = len(job.generations[0].series.labels)
    judge = job.judge.open()
    protocol = {**judge.protocol(count), **job.generations[0].protocol()}
    folder = make_folder(job.folder)
    busy = f"another job is measuring a grid in {folder}; choose another --run_name"
    with exclusive_lock(folder / ".lock", busy):
        table = SweepTable(folder, protocol, option_values(SamplingConfig()))
        combinations = counted(len(job.generations), "combination")
        log.info("%s of %s each", combinations, counted(count, "image"))
        grid = [(one, option_values(one.series.sampling)) for one in job.generations]
        names, measured = [*grid[0][1]], (*BETTER, "images_per_s")
        shown = [*varied([values for _, values in grid], names), *measured]
        for number, (generation, values) in enumerate(grid, start=1):
            title = f"combination {number} of {len(job.generations)}"
            if table.find(values) is None:
                start, made_in = time.monotonic(), [0.0]
                bar = progress_bar(title, count, unit="image")
                blocks = generation.blocks(rounding=job.judge.how.rounding, advance=bar.update)
                made = table.keep_strip(values, _timed(blocks, made_in))
                scores = judge.score(made, count, bar)
                times = {"images_per_s": count / sum(made_in), "seconds": time.monotonic() - start}
                table.add(values, {**scores, **times})
            log.info("%s: %s", title, table.show(values, shown))
        table.draw_sheet(names)
        shown = [*varied(table.rows, names), *measured]
        log.info("lowest FID: %s", table.show(table.best("fid"), shown))
        if job.kept_by is not None:
            _keep_best(job, job.kept_by, table, protocol)
        log_written(table.csv)
        log_written(table.sheet)


def _keep_best(job: SweepJob, metric: str, table: SweepTable, protocol: Mapping[str, Any]) -> None:
    """Write the settings of the table that are best by a score into the checkpoint."""
    row = table.best(metric)
    # The table is a file, so its values are checked like those of a command line.
    names = options_of(SamplingConfig).values()
    values = {name: OPTIONS[name].read([row[name]]) if row[name] else None for name in names}
    first, *_ = job.generations
    sampling, model = changed(first.series.sampling, values), first.model
    sampling.validate_for(model.shape)
    scores = {name: float(text) for name, text in row.items() if text and name not in names}
    best = BestSettings(sampling, metric, finite(scores), dict(protocol))
    keep_best_settings(model.path, model.open().fingerprint, best)
    options = changed_options(sampling, SamplingConfig.usual_for(model.shape))
    log.info("kept in %s: %s, %s", model.path, options, best.summary())


def keep_best_settings(path: Path, fingerprint: str, best: BestSettings) -> None:
    """Write settings into the checkpoint of a model; everything else in it stays the same.

    Args:
        path: a MaskGIT_*.pt of this program.
        fingerprint: fingerprint of the model that the settings were found with.
        best: the settings.

    Raises:
        UserError: if the file now holds another model, is damaged or cannot be written. The file
            is then unchanged.
    """
    stored = read_torch_file(path)
    if own_model(stored, path).fingerprint != fingerprint:
        raise UserError(
            f"{path} was replaced by another model meanwhile, so the best settings are not written "
            "into it"
        )
    contents = contents_of(stored, path, "maskgit")
    save_checkpoint(path, "maskgit", {**contents, BEST_SETTINGS: best.entry()})


def _timed(
    blocks: Iterator[tuple[np.ndarray, np.ndarray]], seconds: list[float]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the blocks, and append to `seconds` the time that each one took to make."""
    while True:
        start = time.monotonic()
        block = next(blocks, None)
        seconds.append(time.monotonic() - start)
        if block is None:
            return
        yield block


def parse_grid(text: str) -> list[dict[str, Any]]:
    """Turn a text such as `step=4,8 cfg_w=0,3` into combinations; the last option varies fastest.

    A value that is a list has brackets: `cfg_interval=[0.4,0.8],[0.2,0.9]`.

    Args:
        text: options of sampling with their values, separated by spaces.

    Returns:
        The combinations, each with its values by name of the option.

    Raises:
        UserError: if the text has another form, or an option is unknown or occurs twice.
    """
    names = options_of(SamplingConfig).values()
    # The values of each option.
    axes: dict[str, list[Any]] = {}
    for part in text.split():
        spelled, equals, values = part.partition("=")
        name = spelled.lstrip("-").replace("-", "_")
        texts = re.split(r",(?![^\[\]]*\])", values)  # at the commas outside brackets
        if not equals or not all(texts):
            raise UserError(f'--sweep {part!r}: needs option=value,value, as in "step=4,8 cfg_w=0"')
        if name not in names:
            near = difflib.get_close_matches(name, names, cutoff=0.4) or sorted(names)
            raise UserError(
                f"--sweep {spelled!r} is not a sampling option; did you mean {' or '.join(near)}?"
            )
        if name in axes:
            raise UserError(f"--sweep names {name} twice; give all its values at once")
        read = (OPTIONS[name].read([value]) for value in texts)
        axes[name] = list(dict.fromkeys(tuple(v) if isinstance(v, list) else v for v in read))
    if not axes:
        raise UserError('--sweep needs options with values, as in "step=4,8,16 cfg_w=0,1,3"')
    # Their combinations.
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _grid(line: CommandLine) -> list[dict[str, Any]]:
    """Return the combinations of --sweep; errors as in `parse_grid`."""
    grid = parse_grid(line.sweep)
    for name in line.given.intersection(grid[0]):
        raise UserError(f"--{name} is given and also part of --sweep: leave one of them out")
    return grid

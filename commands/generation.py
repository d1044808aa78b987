"""Shared by the modes that generate images: the model, the number of images, their classes."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from commands.flags import changed, configure, option_values, options_of
from commands.model_source import ModelSource, find_model
from commands.options import BEST
from commands.parser import CommandLine
from commands.request import Machine, Request
from metrics.sweep_table import table_text
from models.decoding import make_plan
from models.family import Transformer
from models.generator import ImageSeries
from models.labels import classes_in_turn, labels_in_turn
from models.model import Model
from models.sampling import SamplingConfig
from models.shapes import TransformerShape
from utils.errors import UserError, counted
from utils.pictures import save_grid

log = logging.getLogger(__name__)

GRID_COLUMNS = 10
PREVIEW_IMAGES = 64  # in a grid that a training draws


@dataclass(frozen=True)
class Generation:
    """Images to generate.

    Attributes:
        labels_as_written: the classes as the user wrote them; "all in turn" without --labels.
        num_hidden: number of tokens of an image that are made; the others are kept.
    """

    model: ModelSource
    series: ImageSeries
    labels_as_written: list[str] | str
    num_hidden: int
    machine: Machine

    def blocks(
        self, blocks: Iterable[int] | None = None, **options: Any
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the images and labels of all blocks, or of some; see `Model.sample_blocks`."""
        return self.model.open().sample_blocks(self.series, blocks, **options)

    def describe(self) -> dict[str, Any]:
        """Return what --dry_run prints about the images."""
        return {
            **describe_model(self.model),
            "images": len(self.series.labels),
            "plan": plan_table(self.series.sampling, self.num_hidden),
        }

    def protocol(self) -> dict[str, Any]:
        """Return what the images depend on, except the sampling settings."""
        model = self.model.open()
        return {
            "checkpoint": {"file": self.model.path.name, "fingerprint": model.fingerprint},
            # A model file of another program does not hold its tokenizer.
            "tokenizer": model.tokenizer.fingerprint,
            "labels": self.labels_as_written,
            "seed": self.series.seed,
            "first_image": self.series.first_image,
            "batch_size": self.series.block_size,
            "precision": str(self.machine.precision),
        }


def resolve_generation(
    request: Request,
    default: Sequence[int] | None = None,
    default_count: int | None = None,
    num_hidden: int | None = None,
) -> Generation:
    """Find the model and decide which images it generates.

    Args:
        request: the command line.
        default: labels to use without --labels; None means all classes in turn.
        default_count: number of images without --num_samples; None means one per label of
            --labels, or the default of --num_samples without --labels.
        num_hidden: number of tokens of an image that are made; None means all.

    Raises:
        UserError: if the model is missing, a sampling option does not fit it, or --labels names a
            class that it does not have.
    """
    line, model = request.line, find_model(request)
    # How many images.
    count = line.num_samples
    if "num_samples" not in line.given:
        count = default_count or (None if line.labels else count)
    sampling = sampling_of(line, model)
    return Generation(
        model=model,
        series=series_of(line, model.shape, model.class_names, sampling, count, default),
        labels_as_written=line.labels or "all in turn",
        num_hidden=model.shape.seq_len if num_hidden is None else num_hidden,
        machine=request.machine,
    )


def series_of(
    line: CommandLine,
    shape: TransformerShape,
    class_names: Sequence[str],
    sampling: SamplingConfig,
    count: int | None,
    default: Sequence[int] | None = None,
) -> ImageSeries:
    """Return the images that a command line asks for.

    Args:
        count: number of images; None means one per label of --labels.
        default: labels to use without --labels; None means all classes in turn.

    Raises:
        UserError: if --labels names a class that the transformer does not have.
    """
    default = default or classes_in_turn(shape.num_classes, line.first_image)
    has_null = shape.null_class is not None
    labels = labels_in_turn(line.labels, class_names, default, count, has_null=has_null)
    return ImageSeries(labels, sampling, line.seed, line.first_image, line.batch_size)


def sampling_of(line: CommandLine, model: ModelSource) -> SamplingConfig:
    """Return the sampling settings for a model; options given now win.

    The others come from the best settings if --settings asks for them. Otherwise they are those
    that a student was made for, or the usual ones of the family.

    Raises:
        UserError: if a setting does not fit the model, or --settings asks for best settings that
            it does not have.
    """
    settings = model.usual
    if line.settings == BEST:
        if model.best is None:
            raise UserError(
                f"--settings best: {model.path} has no best settings; --sweep with --keep_best "
                "finds them and writes them there"
            )
        settings = model.best.sampling
    if settings is None:
        sampling = sampling_of_line(line, model.shape)
    else:
        sampling = changed(settings, line.given_values)
    sampling.validate_for(model.shape)
    return sampling


def sampling_of_line(line: CommandLine, shape: TransformerShape) -> SamplingConfig:
    """Return the sampling settings of a command line, not validated."""
    return configure(
        SamplingConfig, guided_if_possible(line, SamplingConfig, "guidance", shape.null_class)
    )


def guided_if_possible(
    line: CommandLine, config: type, field: str, null_class: int | None
) -> CommandLine:
    """Set to 0 a setting that needs a trained null class, if there is none and it was not given.

    Args:
        line: the command line.
        config: the config dataclass that has the setting.
        field: name of the setting: a guidance, or the share of labels to drop.
        null_class: the null class of the transformer.
    """
    return line if null_class is not None else line.fill({options_of(config)[field]: 0.0})


def changed_options(sampling: SamplingConfig, usual: SamplingConfig) -> str:
    """Write the sampling options that differ from the usual ones."""
    values, others = option_values(sampling), option_values(usual)
    changed = [f"{n}={table_text(values[n])}" for n in values if values[n] != others[n]]
    return " ".join(changed) or "the defaults"


def describe_model(source: ModelSource) -> dict[str, Any]:
    """Return what --dry_run prints about a model."""
    return {
        "model": source.path,
        "trained on": f"{source.dataset}, {counted(source.shape.num_classes, 'class')}",
    }


def log_odd_plan(config: SamplingConfig, seq_len: int) -> None:
    """Log which settings of sampling have no effect on an image of so many tokens."""
    if config.num_steps > seq_len:
        tokens = counted(seq_len, "token")
        log.info("`num_steps` %d: an image has only %s", config.num_steps, tokens)
    plan = make_plan(seq_len, config)
    if config.guidance and not plan.guidance.any():
        log.warning("`guidance` %g: no step is guided; see `guidance_interval`", config.guidance)


def plan_table(config: SamplingConfig, num_hidden: int) -> str:
    """Format the plan of an image as a table with one line per step."""
    plan = make_plan(num_hidden, config)
    lines = ["step  tokens  temperature  guidance"]
    columns = zip(plan.counts, plan.temperatures, plan.guidance, strict=True)
    for number, (count, temperature, guidance) in enumerate(columns, start=1):
        lines.append(f"{number:4d}  {count:6d}  {temperature:11.3f}  {guidance:8.3f}")
    return "\n".join(lines)


def preview_writer(
    model_with: Callable[[Transformer], Model], series: ImageSeries
) -> Callable[[Transformer, Path], None]:
    """Return a function (transformer, path) that writes a grid of samples as a PNG."""

    def write(network: Transformer, path: Path) -> None:
        model = model_with(network)
        shown = [image for images, _ in model.sample_blocks(series) for image in images]
        save_grid(path, shown, columns=grid_columns(len(model.class_names)))

    return write


def grid_columns(num_classes: int) -> int:
    """Return the images per row of a grid. With few classes, each column shows one class."""
    return GRID_COLUMNS // num_classes * num_classes or GRID_COLUMNS

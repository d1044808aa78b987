"""Draws the training curves of a run, also while it trains.

A row holds a step and its metrics by name, as `training.tracking` writes it.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from training.tracking import Tracker, read_metrics
from utils.errors import UserError
from utils.pictures import save_png
from utils.plots import (
    COLORS,
    DrawingBudget,
    draw,
    draw_or_warn,
    log_scale,
    number_text,
    plotting_obstacle,
)
from utils.progress import log_written

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)

Row = Mapping[str, Any]

PANEL_WIDTH, PANEL_HEIGHT = 4.4, 2.9  # inches
LEGEND_ROW = 0.25  # inches
FEW_POINTS = 30  # lines with at most this many points get markers
LARGEST = 1e100  # matplotlib cannot scale axes near the largest float
LONGEST_NAME = 40  # characters of a run's name in the legend
STYLES = ("-", "--", ":", "-.")  # when there are more runs than colors
DARK_TO_LIGHT = ("#000000", "#3b528b", "#21918c", "#5ec962", "#d8b400")


@dataclass(frozen=True)
class Panel:
    """One chart of the picture.

    Attributes:
        lines: label in the legend, by the name of the metric. If several runs are shown, a chart
            with more than two lines becomes one chart per line.
        thin: name of the metric that is drawn as a thin line behind the others.
        is_log: whether positive values with a large range get a logarithmic scale.
        lowest: lower end of the scale; None fits it to the values.
        colors: of the lines if a single run is shown; at least one per line.
    """

    title: str
    lines: Mapping[str, str]
    thin: str = ""
    is_log: bool = False
    lowest: float | None = None
    colors: Sequence[str] = COLORS


LOSSES = {"val/loss": "validation", "train/loss": "training"}
ACCURACIES = {f"val/accuracy_{n}_{n + 25}": f"{n}-{n + 25} %" for n in (0, 25, 50, 75)}
LEARNING_RATE = Panel("learning rate", {"train/lr": ""}, lowest=0)
SPEED = Panel("images per second", {"train/images_per_second": ""}, lowest=0)
PANELS = {
    "maskgit": (
        Panel("loss", LOSSES, "train/loss"),
        Panel(
            "accuracy by share hidden",
            {"val/accuracy": "all", **ACCURACIES},
            lowest=0,
            colors=DARK_TO_LIGHT,
        ),
        Panel("FID of samples", {"samples/fid": ""}, is_log=True),
        LEARNING_RATE,
        SPEED,
    ),
    "vqgan": (
        Panel("validation loss: L1 and perceptual", {"val/loss": ""}, is_log=True),
        Panel(
            "L1, range 2", {"val/l1": "validation", "train/l1": "training"}, "train/l1", is_log=True
        ),
        Panel("PSNR, dB", {"val/psnr": ""}),
        Panel("perceptual loss (LPIPS), training", {"train/perceptual": ""}, is_log=True),
        Panel("perplexity of the codebook", {"val/codebook_perplexity": ""}, lowest=0),
        Panel("share of codes in use", {"val/codebook_usage": ""}, lowest=0),
        Panel(
            "adversarial losses",
            {"train/discriminator": "discriminator", "train/generator": "generator"},
            "train/generator",
        ),
        LEARNING_RATE,
        SPEED,
    ),
    "student": (
        Panel("divergence from the teacher", LOSSES, "train/loss", is_log=True),
        Panel("entropy of the student's tokens", {"train/entropy": ""}, lowest=0),
        Panel("loss of the auxiliary model", {"train/auxiliary": ""}),
        LEARNING_RATE,
        SPEED,
    ),
}
"""The charts of each stage."""


class CurvePicture(Tracker):
    """A tracker that draws the curves of a run after each epoch.

    Drawing takes only a small share of the time (`DrawingBudget`), so with short epochs some
    drawings are skipped. The picture is always drawn at the end.
    """

    def __init__(
        self,
        path: Path,
        metrics: Path,
        stage: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start without a picture; if none can be drawn, log a line.

        Args:
            metrics: the metrics file, which another tracker writes first.
            stage: one of `training.run_record.STAGES`.
        """
        self.path, self._metrics, self._stage = path, metrics, stage
        self._is_due = self._is_drawn = False
        self._budget = DrawingBudget(clock)
        obstacle = plotting_obstacle()
        self._draws = obstacle is None
        if obstacle:
            log.info("cannot draw %s: %s", path, obstacle)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Draw if these metrics end an epoch and the last drawing is not too recent."""
        if any(name.startswith("val/") for name in metrics):
            self._is_due = True
            if self._budget.may_draw():
                self._draw()

    def close(self) -> None:
        """Draw the latest metrics if they have not been drawn yet."""
        if self._is_due:
            self._draw()
        if self._is_drawn:
            log_written(self.path)

    def _draw(self) -> None:
        """Draw the picture; after a failure, never again."""
        if not self._draws:
            return
        with self._budget.drawing():
            self._draws = self._is_drawn = draw_or_warn(
                self.path, lambda: draw_run(self.path, self._metrics, self._stage)
            )
        self._is_due = False


def draw_run(path: Path, metrics: Path, stage: str) -> None:
    """Draw the curves of one run from its metrics file; arguments as in `CurvePicture`.

    Raises:
        UserError: if matplotlib is missing, or a file cannot be read or written.
    """
    draw_curves(path, stage, {path.absolute().parent.name: read_metrics(metrics)})


def draw_curves(path: Path, stage: str, runs: Mapping[str, Sequence[Row]]) -> None:
    """Draw the curves of one or several runs into a PNG.

    Args:
        stage: one of `training.run_record.STAGES`.
        runs: the rows of each run by its name; at least one run has rows.

    Raises:
        UserError: if no metrics can be drawn, matplotlib is missing, or the file cannot be written.
    """
    panels = _panels_with_numbers(stage, runs)
    if not panels:
        raise UserError(f"{', '.join(runs)}: no training metrics to draw")
    last_step = max(1, *(row["step"] for rows in runs.values() for row in rows))
    columns = 2 if len(panels) <= 4 else 3
    height = PANEL_HEIGHT * math.ceil(len(panels) / columns)
    width = PANEL_WIDTH * columns
    longest = max(len(_shortened(name)) for name in runs)
    names_in_a_row = max(1, int(width / (0.6 + 0.08 * longest)))  # of 9 points
    rows = math.ceil(len(runs) / names_in_a_row)

    def paint(sheet: Figure) -> None:
        for number, panel in enumerate(panels, start=1):
            axes = sheet.add_subplot(math.ceil(len(panels) / columns), columns, number)
            _paint_panel(axes, panel, runs)
            axes.set_xlim(0, 1.02 * last_step)
        sheet.supxlabel("step", fontsize="medium")
        if len(runs) == 1:
            sheet.suptitle(_shortened(*runs))
            return
        handles = [axes.plot([], [], **_look_of_run(i))[0] for i in range(len(runs))]
        legend = sheet.legend(handles, list(map(str, range(len(runs)))), ncols=names_in_a_row,
                              loc="outside upper center")  # fmt: skip
        for text, name in zip(legend.get_texts(), runs, strict=True):
            text.set_text(_shortened(name))  # set last: matplotlib skips labels that begin with _

    save_png(path, draw(width, height + LEGEND_ROW * (rows + 1), paint))


def _panels_with_numbers(stage: str, runs: Mapping[str, Sequence[Row]]) -> list[Panel]:
    """Choose the charts and lines of a stage for which some run has metrics."""
    known = {name for rows in runs.values() for row in rows for name in row}
    found = []
    for panel in PANELS[stage]:
        lines = {name: label for name, label in panel.lines.items() if name in known}
        if len(lines) > 2 and len(runs) > 1:
            found += [
                replace(panel, title=f"{panel.title}: {label}", lines={name: ""})
                for name, label in lines.items()
            ]
        elif lines:
            colors = dict(zip(panel.lines, panel.colors, strict=False))
            found.append(replace(panel, lines=lines, colors=[colors[name] for name in lines]))
    return found


def _paint_panel(axes: Axes, panel: Panel, runs: Mapping[str, Sequence[Row]]) -> None:
    """Paint the lines of all runs, with scales and a legend of the lines."""
    drawn: list[Any] = []
    values: list[np.ndarray] = []
    for number, rows in enumerate(runs.values()):
        for index, name in enumerate(panel.lines):
            steps, numbers = _series(rows, name)
            values.append(numbers[np.isfinite(numbers)])
            look = _look_of_run(number)
            if len(runs) == 1:
                look["color"] = panel.colors[index]
            if name == panel.thin:
                look |= {"linewidth": 0.9, "alpha": 0.6, "zorder": 2, "markersize": 1}
            else:
                look |= {"linewidth": 1.6, "zorder": 3, "markersize": 3}
            marker = "o" if len(steps) <= FEW_POINTS else ""
            drawn += axes.plot(steps, numbers, marker=marker, **look)
    _set_scales(axes, panel, np.concatenate(values))
    axes.set_title(panel.title, pad=20 if len(panel.lines) > 1 else 6)
    if len(panel.lines) > 1:
        legend: Any = axes.legend(
            drawn[: len(panel.lines)], list(panel.lines.values()), ncols=len(panel.lines),
            loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, borderpad=0,
            fontsize="small", handlelength=1.3, columnspacing=0.9, handletextpad=0.4,
        )  # fmt: skip
        for handle in legend.legend_handles if len(runs) > 1 else ():
            handle.set_color("#555555")  # colors mean runs here


def _set_scales(axes: Axes, panel: Panel, values: np.ndarray) -> None:
    """Choose the scales of a chart for its values, finite (N,)."""
    axes.grid(visible=True)
    if panel.is_log and len(values) and values.min() > 0 and values.max() > 4 * values.min():
        log_scale(axes, values.max() / values.min())
    elif panel.lowest is not None and len(values) and values.max() > panel.lowest:
        axes.set_ylim(panel.lowest, values.max() + 0.05 * (values.max() - panel.lowest))
    axes.locator_params("x", integer=True)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(number_text)


def _series(rows: Sequence[Row], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Extract a metric from rows: steps and values, float64 (N,), NaN for a gap."""
    found = [(row["step"], row[name]) for row in rows if name in row]
    steps, values = np.array(found, np.float64).reshape(-1, 2).T
    return steps, np.where(np.abs(values) < LARGEST, values, np.nan)


def _look_of_run(number: int) -> dict[str, Any]:
    """Choose the color and style of a run's lines."""
    style, color = divmod(number, len(COLORS))
    return {"color": COLORS[color], "linestyle": STYLES[style % len(STYLES)]}


def _shortened(name: str) -> str:
    """Take the middle out of a long name."""
    half = LONGEST_NAME // 2
    return name if len(name) <= LONGEST_NAME else f"{name[: half - 1]}…{name[-half:]}"

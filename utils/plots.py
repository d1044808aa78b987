"""Charts, drawn with matplotlib. It is optional: without it nothing else breaks.

Its object interface is used, not pyplot: no window, no state between two charts. The style does not
depend on the user's settings.
"""

from __future__ import annotations

import importlib.util
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from utils.errors import UserError, one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)

REQUIREMENTS = "pip install -r requirements-plots.txt"
MOST_OF_THE_TIME = 0.02  # largest share of a job's time for drawing
FEW_SECONDS = 5
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Different also for color-blind people: those of Okabe and Ito 2008 without the yellow, which is
hard to see on white."""

STYLE: dict[str, Any] = {
    "figure.dpi": 120,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "figure.constrained_layout.h_pad": 0.1,
    "figure.constrained_layout.w_pad": 0.1,
    "text.parse_math": False,  # names may hold a $
}


def plotting_obstacle() -> str | None:
    """Say why this machine cannot draw, and what would help; None if it can."""
    if importlib.util.find_spec("matplotlib") is None:
        return f"matplotlib is missing: {REQUIREMENTS}"
    return None


def draw(width: float, height: float, paint: Callable[[Figure], None]) -> np.ndarray:
    """Draw a chart.

    Args:
        width: width in inches of 120 pixels.
        height: height in the same unit.
        paint: draws on an empty figure.

    Returns:
        uint8 (H, W, 3).

    Raises:
        UserError: if matplotlib is missing or cannot be imported.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about its packages and missing glyphs
        try:
            # Imported here because it is optional, and slow.
            from matplotlib import figure, style
        except ImportError as error:
            broken = f"matplotlib is broken ({one_line(error)}): {REQUIREMENTS}"
            raise UserError(plotting_obstacle() or broken) from error
        with style.context(["default", STYLE]):
            sheet, pixels = figure.Figure(figsize=(width, height), layout="constrained"), BytesIO()
            paint(sheet)
            sheet.savefig(pixels, format="png")
    return np.asarray(Image.open(pixels).convert("RGB"))


def number_text(value: float, _: Any = None) -> str:
    """Write a number for an axis, large ones with k or M."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.6g}{unit}"
    return f"{value:.6g}"


def log_scale(axes: Axes, ratio: float) -> None:
    """Give the y axis a logarithmic scale with numbers that are easy to read.

    `ratio` is its largest value / its smallest value.
    """
    axes.set_yscale("log")
    axes.locator_params("y", subs=(1, 2, 5) if ratio < 300 else (1,))
    axes.yaxis.set_major_formatter(number_text)
    axes.yaxis.set_minor_formatter(lambda *_: "")
    axes.yaxis.set_tick_params(which="minor", length=0)


class DrawingBudget:
    """Decides when to draw, so that drawing takes only a small share of a job's time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start; a job of a few seconds draws only at its end."""
        self.clock = clock
        self._not_before = clock() + FEW_SECONDS
        self._is_first = True

    def may_draw(self) -> bool:
        """Whether enough time has passed for another drawing."""
        return self.clock() >= self._not_before

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Draw in the block: the longer it takes, the later the next one is.

        The first drawing does not count, because it loads matplotlib.
        """
        begin = self.clock()
        yield
        end = self.clock()
        if not self._is_first:
            self._not_before = end + (end - begin) / MOST_OF_THE_TIME
        self._is_first = False


def draw_or_warn(what: object, action: Callable[[], None]) -> bool:
    """Draw something optional; if it fails, log one line.

    Returns:
        Whether it was drawn.
    """
    try:
        action()
    except Exception as error:  # for any error: the work goes on without the chart
        log.warning("cannot draw %s: %s", what, one_line(error))
        return False
    return True

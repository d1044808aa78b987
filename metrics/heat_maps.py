"""Heat maps of a sweep: each score over each pair of options.

Axes: y and x, the values of two options, with one cell for each combination.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from metrics.better import BETTER
from utils.plots import COLORS, draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, str]

COLUMNS = 3  # maps side by side
CELL_WIDTH, CELL_HEIGHT = 0.5, 0.3  # inches
WIDTH_OF_TITLE, CHARACTER = 2.4, 0.08  # inches
LONG_VALUE = 5  # longest values below a map that are not rotated, in characters
WIDEST_LINEAR = 10  # largest ratio of the highest to the lowest value with a linear color scale


def heat_maps(
    rows: Sequence[Row], options: Sequence[str], scores: Sequence[str]
) -> list[np.ndarray]:
    """Draw a picture for each pair of options, with a map for each score.

    If other options vary too, a cell shows the best value over them.

    Args:
        rows: rows of the sweep table, texts by the names of the columns.
        options: the names of the columns that vary.
        scores: the names of the columns to show; those without numbers are left out.

    Returns:
        The pictures, uint8 (H, W, 3); none if fewer than two options vary or no score is left.

    Raises:
        UserError: if matplotlib is missing.
    """
    shown = [s for s in scores if any(not math.isnan(_number(row.get(s, ""))) for row in rows)]
    pairs = itertools.combinations(options, 2) if shown else ()
    return [
        _draw_pair(rows, pair, [name for name in options if name not in pair], shown)
        for pair in pairs
    ]


def best_values(rows: Sequence[Row], y: str, x: str, score: str) -> np.ndarray:
    """Choose the best score for each pair of values of two options.

    Args:
        y: name of the option along the first axis, in the order of `values_of`.
        x: the same along the second axis.

    Returns:
        float64 (number of y's values, number of x's values); NaN where nothing was measured.
    """
    best = np.fmin if BETTER.get(score) is min else np.fmax
    ys, xs = values_of(rows, y), values_of(rows, x)
    result = np.full((len(ys), len(xs)), np.nan)
    for row in rows:
        cell = ys.index(row[y]), xs.index(row[x])
        result[cell] = best(result[cell], _number(row.get(score, "")))
    return result


def values_of(rows: Sequence[Row], option: str) -> list[str]:
    """List the values of an option: sorted if they are numbers, else in order of occurrence."""
    found = list(dict.fromkeys(row[option] for row in rows))
    numbers = {text: _number(text) for text in found}
    return (
        found if any(map(math.isnan, numbers.values())) else sorted(found, key=numbers.__getitem__)
    )


def _draw_pair(
    rows: Sequence[Row], pair: tuple[str, str], others: Sequence[str], scores: Sequence[str]
) -> np.ndarray:
    """Draw the maps of a pair of options; y is the one with the longer values."""
    y, x = sorted(pair, key=lambda option: -max(map(len, values_of(rows, option))))
    xs, ys = values_of(rows, x), values_of(rows, y)
    rotated_height = CHARACTER * max(map(len, xs)) if max(map(len, xs)) > LONG_VALUE else 0
    width = 0.7 + CHARACTER * max(map(len, ys)) + max(WIDTH_OF_TITLE, CELL_WIDTH * len(xs))
    height = 0.9 + CELL_HEIGHT * len(ys) + rotated_height
    columns = min(COLUMNS, len(scores))
    lines = math.ceil(len(scores) / columns)

    def paint(sheet: Figure) -> None:
        title = f"{y} and {x}"
        sheet.suptitle(f"{title}, best over {', '.join(others)}" if others else title)
        for number, score in enumerate(scores, start=1):
            axes = sheet.add_subplot(lines, columns, number)
            _paint_map(axes, best_values(rows, y, x, score), score)
            axes.set_xlabel(x)
            axes.set_ylabel(y)
            axes.set_xticks(range(len(xs)), [text or "none" for text in xs])
            axes.set_yticks(range(len(ys)), [text or "none" for text in ys])
            if rotated_height:
                axes.tick_params("x", rotation=60)

    return draw(width * columns, height * lines + 0.3, paint)


def _paint_map(axes: Axes, values: np.ndarray, score: str) -> None:
    """Paint a map (y, x) with its values; light is better, and the best has a frame."""
    low, high = np.nanmin(values), np.nanmax(values)
    is_lower_better = BETTER.get(score) is min
    image = axes.imshow(
        values,
        cmap="viridis_r" if is_lower_better else "viridis",
        norm="log" if low > 0 and high > WIDEST_LINEAR * low else "linear",
        aspect="auto",
    )
    axes.set_title(f"{score}, {'lower' if is_lower_better else 'higher'} is better", size="medium")
    axes.set_facecolor("#dddddd")  # for cells without a value
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    brightness = image.to_rgba(values)[..., :3] @ [0.3, 0.6, 0.1]  # (y, x)
    for (y, x), value in np.ndenumerate(values):
        if not math.isnan(value):
            color = "black" if brightness[y, x] > 0.5 else "white"
            text = f"{value:.{_decimals(high - low)}f}"
            axes.text(x, y, text, ha="center", va="center", color=color, size="small")
    if low == high:
        return
    y, x = np.argwhere(values == (low if is_lower_better else high))[0]
    left, right, top, bottom = x - 0.5, x + 0.5, y - 0.5, y + 0.5
    axes.plot(
        [left, right, right, left, left], [top, top, bottom, bottom, top], color=COLORS[1],
        linewidth=2.5, clip_on=False,
    )  # fmt: skip


def _decimals(spread: float) -> int:
    """Choose the number of decimals that distinguishes values of this spread."""
    return min(max(2 - math.floor(math.log10(spread)), 0), 6) if spread > 0 else 3


def _number(text: str) -> float:
    """Read a cell of the table; NaN if it holds no finite number."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan

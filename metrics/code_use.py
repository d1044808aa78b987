"""Draws how a tokenizer uses its codebook."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.pictures import save_png
from utils.plots import COLORS, draw, log_scale

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS = 40


def draw_code_use(path: Path, counts: np.ndarray) -> None:
    """Draw how often each code occurs, and a histogram of these counts, into a PNG.

    Args:
        counts: how often each code occurs, (K,); at least one is positive.

    Raises:
        UserError: if matplotlib is missing, or the file cannot be written.
    """
    used = np.sort(counts[counts > 0])[::-1]
    unused = len(counts) - len(used)
    uniform = counts.sum() / len(counts)

    def paint(sheet: Figure) -> None:
        ranked, histogram = sheet.subplots(1, 2)
        ranked.set_title("times that each code is used")
        ranked.fill_between(np.arange(len(used) + 1), np.append(used, used[-1]), 0.8, step="post",
                            color=COLORS[0], linewidth=0)  # fmt: skip
        ranked.axhline(uniform, color=COLORS[1], linestyle="--", label="if all were used equally")
        log_scale(ranked, "y", used[0] / used[-1])
        ranked.set_xlim(0, len(counts))
        ranked.set_xlabel("codes, the most used first")
        ranked.legend(loc="upper right")

        histogram.set_title(f"{len(used)} of {len(counts)} codes are used, {unused} never")
        edges = np.unique(np.geomspace(used[-1], used[0] + 1, BINS + 1).round())  # whole numbers
        histogram.hist(used, bins=edges.tolist(), color=COLORS[0])
        histogram.axvline(uniform, color=COLORS[1], linestyle="--")
        log_scale(histogram, "x", used[0] / used[-1])
        histogram.set_xlabel("times used")
        histogram.set_ylabel("number of codes")

    save_png(path, draw(9, 3.4, paint))

"""A picture of how a tokenizer uses its codebook."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.pictures import save_png
from utils.plots import COLOURS, draw

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS = 40


def draw_code_use(path: Path, counts: np.ndarray) -> None:
    """Draw how often each code occurs, and a histogram of that.

    Args:
        path: the picture, a PNG.
        counts: how often each code occurs, (K,); one does at least.

    Raises:
        UserError: if matplotlib is missing, or the file cannot be written.
    """
    used = np.sort(counts[counts > 0])[::-1]
    unused = len(counts) - len(used)
    alike = counts.sum() / len(counts)

    def paint(sheet: Figure) -> None:
        ranked, histogram = sheet.subplots(1, 2)
        ranked.set_title("times that each code is used")
        ranked.fill_between(np.arange(len(used) + 1), np.append(used, used[-1]), 0.8, step="post",
                            color=COLOURS[0], linewidth=0)  # fmt: skip
        ranked.axhline(alike, color=COLOURS[1], linestyle="--", label="if all were used alike")
        ranked.set_yscale("log")
        ranked.set_xlim(0, len(counts))
        ranked.set_xlabel("codes, the most used first")
        ranked.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, borderpad=0)

        histogram.set_title(f"{len(used)} of {len(counts)} codes are used, {unused} never")
        edges = np.geomspace(used[-1], used[0] + 1, BINS + 1)
        histogram.hist(used, bins=edges.tolist(), color=COLOURS[0])
        histogram.axvline(alike, color=COLOURS[1], linestyle="--")
        histogram.set_xscale("log")
        histogram.set_xlabel("times used")
        histogram.set_ylabel("number of codes")

    save_png(path, draw(9, 3.4, paint))

"""The scores of each class alone, as a table and a picture.

Axes: N images, D width of a feature, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from metrics.features import MIN_IMAGES, FeatureSet, Moments, kept_images
from metrics.scores import distance_of, is_recognized
from utils.files import write_csv_atomic
from utils.pictures import save_png
from utils.plots import COLORS, draw

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 20  # classes in the picture, those with the highest FID


@dataclass(frozen=True)
class ClassRow:
    """The scores of one class.

    Attributes:
        samples: samples of the class whose features were compared.
        real: real images of the class, likewise.
        fid: None with fewer than MIN_IMAGES images on a side.
        accuracy: share of the samples in which the extractor sees the class; None if it has no
            logits of the classes.
    """

    name: str
    samples: int
    real: int
    fid: float | None
    accuracy: float | None


def class_rows(
    generated: FeatureSet,
    labels: np.ndarray,
    real: FeatureSet,
    real_labels: np.ndarray,
    names: Sequence[str],
) -> list[ClassRow]:
    """Score each class alone, with the features that both sides kept.

    Args:
        labels: int (N,), the classes of the generated images.
        real_labels: int, those of the real images.
        names: the C classes.
    """
    sides = []
    for side, of_all in ((generated, labels), (real, real_labels)):
        assert side.kept is not None, "the features of images are kept"
        sides.append((side.kept, of_all[kept_images(side)]))
    seen = is_recognized(generated)
    rows = []
    for number, name in enumerate(names):
        fake, true = (kept[of_kept == number] for kept, of_kept in sides)
        right = [] if seen is None else seen[labels == number]
        rows.append(
            ClassRow(
                name=name,
                samples=len(fake),
                real=len(true),
                fid=_fid(fake, true) if min(len(fake), len(true)) >= MIN_IMAGES else None,
                accuracy=float(np.mean(right)) if len(right) else None,
            )
        )
    return rows


def write_rows(path: Path, rows: Sequence[ClassRow]) -> None:
    """Write a table as CSV; a score that is not measured is empty."""
    write_csv_atomic(path, [[field.name for field in fields(ClassRow)], *map(astuple, rows)])


def draw_rows(path: Path, rows: Sequence[ClassRow]) -> None:
    """Draw FID and accuracy of the classes with the highest FID as bars, into a PNG.

    Raises:
        UserError: if matplotlib is missing, or the file cannot be written.
    """
    worst = sorted(rows, key=lambda row: row.fid or 0.0)[-SHOWN:]
    names = [row.name for row in worst]

    def paint(sheet: Figure) -> None:
        panels = sheet.subplots(1, 2, sharey=True)
        for panel, title, color in zip(panels, ("fid", "accuracy"), COLORS, strict=False):
            values = [getattr(row, title) for row in worst]
            panel.barh(names, [value or 0.0 for value in values], color=color)
            for place, value in enumerate(values):
                if value is None:  # no bar would be the best FID
                    panel.text(0, place, " not measured", va="center")
            panel.set_title(title)

    save_png(path, draw(9, 1 + 0.25 * len(worst), paint))


def _fid(fake: Tensor, true: Tensor) -> float:
    """Compute the FID between features (N, D) of two sides."""
    sides: list[Tensor] = []
    for features in (fake, true):
        moments = Moments()
        moments.add(features)
        sides += moments.result()
    return distance_of(*sides)

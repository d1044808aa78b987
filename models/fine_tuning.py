"""Starts a new network from the weights of a trained one.

A weight is taken if both networks have one of its name and shape. Before that, the family of a
transformer may fit a weight to the classes and the token grid of the new one
(`Transformer.carry` in models/family.py).

Axes: L tokens of an image, h w token grid.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.errors import named

SHOWN = 6  # largest number of names in a row of the table


@dataclass(frozen=True)
class Change:
    """How a new transformer differs from the one that it starts from; both are of one family.

    Attributes:
        old: config of the trained transformer.
        new: config of the new one.
        labels: for each class of the new one, the label of this class in the old one; None for a
            class that the old one does not know.
        grids: token grids of the old and the new one.
    """

    old: Any
    new: Any
    labels: tuple[int | None, ...]
    grids: tuple[tuple[int, ...], tuple[int, ...]]

    def classes(self, rows: Tensor) -> Tensor:
        """Choose the rows of the new classes: the old one's, or the mean of all for a new class.

        Args:
            rows: (old classes, ...), float.

        Returns:
            (new classes, ...).
        """
        with_mean = torch.cat([rows, rows.mean(0, keepdim=True)])
        return with_mean[[len(rows) if label is None else label for label in self.labels]]

    def classes_and_null(self, rows: Tensor) -> Tensor:
        """Choose rows of the classes, which a row of "no class" follows.

        That row becomes the mean of the classes if it was not trained.

        Args:
            rows: (old classes + 1, ...), float.

        Returns:
            (new classes + 1, ...).
        """
        classes, null = rows[:-1], rows[-1:]
        null = null if self.old.null_trained else classes.mean(0, keepdim=True)
        return torch.cat([self.classes(classes), null])

    def positions(self, rows: Tensor) -> Tensor:
        """Interpolate what belongs to the positions of a grid, bicubic over (h, w).

        Args:
            rows: (old L, ...), float.

        Returns:
            (new L, ...); the rows themselves if the grid is the same, or only one of the two grids
            has rows and columns.
        """
        old, new = self.grids
        if old == new or len(old) != len(new):
            return rows
        shape = (1, *old) if len(old) == 1 else old
        planes = rows.reshape(*shape, -1).permute(2, 0, 1)[None].float()  # (1, ..., h, w)
        size = (1, *new) if len(new) == 1 else new
        resized = F.interpolate(planes, size, mode="bicubic", antialias=True)
        return resized[0].permute(1, 2, 0).reshape(-1, *rows.shape[1:]).to(rows.dtype)


def same_classes(old: Sequence[str], new: Sequence[str]) -> tuple[int | None, ...]:
    """Find the old label of each new class by its name; see `Change.labels`."""
    labels = {name: label for label, name in enumerate(old)}
    return tuple(labels.get(name) for name in new)


@dataclass(frozen=True)
class StartWeights:
    """The weights that a new network takes from a trained one.

    Attributes:
        weights: by name, in the shapes of the new network.
        fitted: names of those that were changed to fit.
        new: names of the new network's weights that start at random.
        left_out: names of the trained network's weights that do not fit.
        share: share of the new network's numbers that is taken, in [0, 1].
    """

    weights: Mapping[str, Tensor]
    fitted: tuple[str, ...]
    new: tuple[str, ...]
    left_out: tuple[str, ...]
    share: float

    def table(self) -> str:
        """Write what is taken, fitted, new and left out, a line each."""
        rows = {
            "taken": f"{len(self.weights)} weights, {self.share:.1%} of the new network",
            "fitted": named(self.fitted, SHOWN),
            "new": named(self.new, SHOWN),
            "left out": named(self.left_out, SHOWN),
        }
        return "\n".join(f"  {name:<9} {text}" for name, text in rows.items() if text)


def start_from(
    found: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    carry: Callable[[str, Tensor], Tensor] = lambda _name, weight: weight,
) -> StartWeights:
    """Choose the weights that a new network takes.

    Args:
        found: weights of the trained network.
        expected: weights of the new one, of which only the shapes are read.
        carry: fits a weight to the new network.
    """
    carried = {name: carry(name, weight) for name, weight in found.items()}
    fits = {
        name: weight
        for name, weight in carried.items()
        if name in expected and weight.shape == expected[name].shape
    }
    total = sum(weight.numel() for weight in expected.values())
    return StartWeights(
        weights=fits,
        fitted=tuple(name for name in fits if not torch.equal(fits[name], found[name])),
        new=tuple(name for name in expected if name not in fits),
        left_out=tuple(name for name in found if name not in fits),
        share=sum(weight.numel() for weight in fits.values()) / max(total, 1),
    )

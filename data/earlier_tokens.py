"""Tokens that an earlier cache has, so that a set that has grown is not encoded again as a whole.

Axes: N images of the new cache, B images of a block, L tokens of an image.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class EarlierTokens:
    """The tokens of some of the images of a new cache.

    Attributes:
        rows: int64 (N,), the row of each image in the earlier cache; -1 for an image that it lacks.
        tokens: of the earlier cache, (views, rows, L).
        labels: int64 (N,), of all images of the new cache.
    """

    rows: np.ndarray
    tokens: np.ndarray
    labels: np.ndarray

    def completed(self, block: range, encoded: list[Tensor] | None) -> tuple[list[Tensor], Tensor]:
        """Add the images that the earlier cache has to the others of a block.

        Args:
            encoded: int64 (number of images that it lacks, L) for each view; None if it lacks none.

        Returns:
            int64 (B, L) for each view, and the labels (B,).
        """
        rows = self.rows[block.start : block.stop]
        views = []
        for number, tokens in enumerate(self.tokens):
            view = torch.from_numpy(tokens[rows.clip(0)].astype(np.int64))
            if encoded is not None:
                view[torch.from_numpy(rows < 0)] = encoded[number]
            views.append(view)
        return views, torch.from_numpy(self.labels[block.start : block.stop])


def matching_rows(stamps: np.ndarray, earlier: Iterable[int]) -> np.ndarray:
    """Find the images of a new cache among those of an earlier one.

    Args:
        stamps: uint64 (N,), of the images of the new cache.
        earlier: those of the earlier one.

    Returns:
        int64 (N,), the row of each image there; -1 for an image that it lacks.
    """
    places = {stamp: row for row, stamp in enumerate(earlier)}
    return np.fromiter((places.get(stamp, -1) for stamp in stamps.tolist()), np.int64, len(stamps))

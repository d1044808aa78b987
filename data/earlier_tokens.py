"""Tokens that an earlier cache has, so that a set that has grown is not encoded again as a whole.

Axes: N images of the new cache, B images of a block, L tokens of an image.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class EarlierTokens:
    """The tokens of some of the images of a new cache.

    Attributes:
        rows: int64 (N,), the row of each image in the earlier cache; -1 for an image that it lacks.
        tokens: of the earlier cache, (views, rows, L).
    """

    rows: np.ndarray
    tokens: np.ndarray

    def missing(self, block: range) -> list[int]:
        """Return the images of a block that the earlier cache lacks."""
        return [index for index in block if self.rows[index] < 0]

    def completed(self, block: range, encoded: Sequence[np.ndarray]) -> np.ndarray:
        """Add the images that the earlier cache has to the others of a block.

        Args:
            encoded: the tokens of the others, batch by batch: (views, images of the batch, L).

        Returns:
            (views, B, L).
        """
        rows = self.rows[block.start : block.stop]
        tokens = np.array(self.tokens[:, rows.clip(0)])
        if encoded:
            tokens[:, rows < 0] = np.concatenate(encoded, 1)
        return tokens


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

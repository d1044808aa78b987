"""What stage 1 hands to stage 2: the tokens of a dataset's split, and their labels."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TokenSet:
    """A tokenised split; the arrays are usually memory-mapped files.

    Attributes:
        tokens: uint16 (views, N, L), every image under every flip that training may see.
        labels: int64 (N,), or uint8 (N, F) where an image has several of F findings or none.
    """

    tokens: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return self.tokens.shape[1]

    @property
    def num_views(self) -> int:
        """Flips that are stored of each image."""
        return self.tokens.shape[0]

    def take(self, indices: np.ndarray, views: np.ndarray | int = 0) -> np.ndarray:
        """Tokens of some images, each under its view: int64 (B, L)."""
        return self.tokens[views, indices].astype(np.int64)

    def classes(self, indices: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """One class per image, int64 (B,).

        Of several findings one is drawn anew at each use; an image without any is of class F, which
        stands for "no finding".
        """
        labels = self.labels[indices]
        if labels.ndim == 1:
            return labels.astype(np.int64)
        scores = np.where(labels > 0, generator.random(labels.shape), -1.0)
        return np.where(labels.any(axis=1), scores.argmax(axis=1), labels.shape[1])

"""Looks for training images that a model has memorized: the nearest one of each sample.

Distances are those of the features that the other metrics compare. The features of all training
images are in a file on the disk, of which one block at a time is in memory.

Axes: N samples, M training images, V validation images, D width of a feature.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.generated import Blocks
from metrics.extractor import Extractor
from utils.progress import progress_bar

BLOCK = 1000  # training images compared at once
CLOSE_SHARE = 0.01  # of validation images are closer to a training image than "close" means
SUSPICIOUS = 5  # times that share of samples


@dataclass(frozen=True)
class Nearest:
    """The nearest training image of each sample.

    Attributes:
        distances: float64 (N,).
        images: int64 (N,), the indices of the training images.
        scores: "auth_pct", the percentage of samples that are farther from their training image
            than that is from the next one (Alaa et al. 2022); and "close_share", the share of
            samples that are closer to a training image than 99 % of the validation images.
    """

    distances: np.ndarray
    images: np.ndarray
    scores: dict[str, float]

    @property
    def verdict(self) -> str:
        """Say in one sentence whether the samples look like copies."""
        share = self.scores["close_share"]
        looks = (
            "look like copies" if share > SUSPICIOUS * CLOSE_SHARE else "do not look like copies"
        )
        return (
            f"the samples {looks} of training images: {100 * share:.1f} % are closer to one than "
            f"{100 * (1 - CLOSE_SHARE):.0f} % of the validation images are"
        )


def write_features(
    path: Path, extractor: Extractor, blocks: Blocks, count: int, title: str
) -> np.ndarray:
    """Write the features of images to an .npy file.

    Returns:
        float32 (count, D), mapped from the file.

    Raises:
        UserError: if the extractor cannot take the images.
    """
    rows: np.ndarray | None = None
    done = 0
    with progress_bar(title, count, unit="image") as bar:
        for images, _ in blocks:
            found = extractor(images).features.float().numpy()
            if rows is None:
                shape = (count, found.shape[1])
                rows = np.lib.format.open_memmap(path, "w+", np.float32, shape)
            rows[done : done + len(found)] = found
            done += len(found)
            bar.update(len(found))
    assert rows is not None, "no images"
    return rows


def find_nearest(samples: Tensor, validation: Tensor, training: np.ndarray) -> Nearest:
    """Find the nearest training image of each sample.

    Args:
        samples: features (N, D).
        validation: features (V, D) of images that the model was not trained on.
        training: features float32 (M, D), M at least 2.
    """
    distances, images = nearest_rows(samples, training)
    usual, _ = nearest_rows(validation, training)
    matched, position = np.unique(images, return_inverse=True)
    to_next, _ = nearest_rows(torch.from_numpy(training[matched]), training, themselves=matched)
    scores = {
        "auth_pct": 100 * float((distances > to_next[position]).mean()),
        "close_share": float((distances < np.quantile(usual, CLOSE_SHARE)).mean()),
    }
    return Nearest(distances, images, scores)


def nearest_rows(
    points: Tensor, rows: np.ndarray, themselves: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Find the row with the smallest Euclidean distance from each point, block by block.

    Args:
        points: (N, D).
        rows: float32 (M, D).
        themselves: int64 (N,), for each point a row that is left out; None leaves out none.

    Returns:
        The distances, float64 (N,), and the indices of the rows, int64 (N,).
    """
    points = points.float()
    middle = points.mean(0)  # products of numbers far from 0 would leave no digits of a distance
    least, at = torch.full((len(points),), torch.inf), torch.zeros(len(points), dtype=torch.long)
    for start in range(0, len(rows), BLOCK):
        block = torch.from_numpy(rows[start : start + BLOCK]) - middle
        found = torch.cdist(points - middle, block)  # (N, block)
        if themselves is not None:
            own = themselves - start
            (inside,) = np.nonzero((own >= 0) & (own < found.shape[1]))
            found[inside, own[inside]] = torch.inf
        distances, nearest = found.min(1)
        at = torch.where(distances < least, nearest + start, at)
        least = torch.minimum(distances, least)
    # Once more in float64, without products: a copy is at distance 0.
    pairs = zip(points.split(BLOCK), at.split(BLOCK), strict=True)
    exact = [(one.double() - torch.from_numpy(rows[i.numpy()])).norm(dim=1) for one, i in pairs]
    return torch.cat(exact).numpy(), at.numpy()

"""--nearest: which training images are the samples closest to?"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from commands.generation import GRID_COLUMNS
from commands.judging import JudgeSource, resolve_judge
from commands.request import Data, Request
from data.batches import uint8_blocks
from data.generated import Blocks
from data.images import ImageDataset
from metrics.features import FeatureSet, kept_images
from metrics.nearest_features import Nearest, find_nearest, write_features
from utils.files import make_folder, temporary_folder
from utils.pictures import save_grid
from utils.progress import log_written

log = logging.getLogger(__name__)

BlocksFrom = Callable[[list[int]], Blocks]
"""(numbers of blocks) -> these blocks of samples, all of one size."""


@dataclass(frozen=True)
class NearestSource:
    """Everything that finds the training images nearest to samples.

    Attributes:
        judge: extracts the features of the validation images.
        picture: file for the closest pairs.
    """

    training: ImageDataset
    judge: JudgeSource
    picture: Path

    def measure(self, samples: FeatureSet, blocks: BlocksFrom, block_size: int) -> dict[str, Any]:
        """Find the nearest training images of samples, draw the closest pairs, say the result.

        Args:
            blocks: returns some blocks of the samples again.
            block_size: samples of a block; only the last one may be smaller.

        Returns:
            The scores of `Nearest`.
        """
        assert samples.kept is not None, "the features of images are kept"
        validation = self.judge.open().real.kept
        assert validation is not None, "the features of a split are kept"
        found = find_nearest(samples.kept, validation, self._features)
        self._draw(found, kept_images(samples), blocks, block_size)
        log.info("%s", found.verdict)
        return found.scores

    @cached_property
    def _features(self) -> np.ndarray:
        """The features of all training images, float32 (M, D), mapped from a file without a name.

        They are the same for all seeds.
        """
        real = uint8_blocks(self.training, self.judge.batch_size, self.judge.data.num_workers)
        with temporary_folder(make_folder(self.judge.data.cache_folder), "nearest") as folder:
            return write_features(
                folder / "features.npy",
                self.judge.extractor(),
                real,
                len(self.training),
                "features of all training images",
            )

    def _draw(
        self, found: Nearest, indices: np.ndarray, blocks: BlocksFrom, block_size: int
    ) -> None:
        """Draw the samples that are closest to a training image, and those images below them.

        Args:
            indices: int (N,), the numbers of the samples.
        """
        closest = found.distances.argsort()[:GRID_COLUMNS]
        samples: dict[int, np.ndarray] = {}
        numbers = sorted({int(index) // block_size for index in indices[closest]})
        for number, (images, _) in zip(numbers, blocks(numbers), strict=True):
            samples |= {number * block_size + i: image for i, image in enumerate(images)}
        shown = [samples[int(index)] for index in indices[closest]]
        shown += [self.training.picture(int(index))[0] for index in found.images[closest]]
        make_folder(self.picture.parent)
        save_grid(self.picture, shown, columns=len(closest))
        log_written(self.picture, "the samples closest to a training image, above that image")


def resolve_nearest(request: Request, data: Data, result: Path) -> NearestSource | None:
    """Open the images to compare with, if --nearest asks for it.

    Args:
        result: file for the scores; the picture goes beside it.

    Raises:
        UserError: as `resolve_judge`.
    """
    if not request.line.nearest:
        return None
    judge = replace(resolve_judge(request, data, "validation"), written=None)
    picture = result.with_name(f"{result.stem}_nearest.png")
    return NearestSource(data.open("train"), judge, picture)

"""The features of a set of images: extracts them, and gathers statistics and a sample of them.

Axes: N images of the set, B images of a batch, D width of a feature, S that of a spatial one, C
classes.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data.generated import Blocks
from metrics.extractor import Extractor, Features
from metrics.unfinished import Unfinished
from utils.errors import UserError
from utils.seeding import rng

MIN_IMAGES = 10  # too few images give no meaningful score
KEPT = 10_000  # images whose features are kept


@dataclass(frozen=True)
class FeatureSet:
    """Statistics and a sample of the features of N images.

    Attributes:
        count: N; None if a file of statistics does not say it.
        mean: float64 (D,).
        covariance: float64 (D, D), with N - 1 in the denominator.
        kept: (up to KEPT or N, D) in the extractor's dtype, for metrics that compare single images:
            features of images drawn without replacement, in random order. So the first rows are a
            fair sample, even if the images were sorted by class. None if there are statistics only.
        logits: (N, C) in the extractor's dtype; None if they do not exist or are not needed.
        labels: int (N,), the requested classes, as indices of logits; any other number means that
            no class was requested. None if the images have no such labels.
        spatial: mean float64 (S,) and covariance float64 (S, S) of the spatial features; None if
            they do not exist or are not needed.
    """

    count: int | None
    mean: Tensor
    covariance: Tensor
    kept: Tensor | None = None
    logits: Tensor | None = None
    labels: np.ndarray | None = None
    spatial: tuple[Tensor, Tensor] | None = None


@dataclass
class Moments:
    """Mean and covariance of features that come batch by batch.

    Mean and scatter (the sum of outer products around the mean) of a batch are merged into those of
    the batches before it, after Chan, Golub and LeVeque 1983. This stays exact even if the mean is
    much larger than the spread.
    """

    seen: int = 0
    mean: Tensor = field(default_factory=lambda: torch.zeros(()))
    scatter: Tensor = field(default_factory=lambda: torch.zeros(()))

    def add(self, features: Tensor) -> None:
        """Add the features (B, D) of the next images."""
        batch_mean = features.double().mean(0)
        centered = features - batch_mean  # float64
        batch_scatter = centered.T @ centered  # (D, D)
        new, total = len(features), self.seen + len(features)
        shift = batch_mean - self.mean
        more = batch_scatter + shift.outer(shift) * (self.seen * new / total)
        self.scatter, self.mean = self.scatter + more, self.mean + shift * (new / total)
        self.seen = total

    def result(self) -> tuple[Tensor, Tensor]:
        """Return mean float64 (D,) and covariance float64 (D, D) of all images."""
        assert self.seen, "no features"
        return self.mean, self.scatter / (self.seen - 1)


class FeatureCollector:
    """Gathers the features of N images, batch by batch."""

    def __init__(self, count: int, keeps_all: bool = False) -> None:
        """Choose which features to keep.

        Args:
            count: N; needed in advance, so that kept features come from all images.
            keeps_all: whether all features are kept; otherwise up to KEPT.
        """
        self._count = count
        self._drawn = np.ones(count, bool) if keeps_all else drawn_images(count)
        self._moments, self._spatial = Moments(), Moments()
        self._kept: list[Tensor] = []
        self._logits: list[Tensor] = []

    def add(
        self, features: Tensor, logits: Tensor | None = None, spatial: Tensor | None = None
    ) -> None:
        """Add the features (B, D), logits (B, C) and spatial features (B, S) of the next images."""
        is_drawn = self._drawn[self._moments.seen :][: len(features)]
        self._kept.append(features[torch.from_numpy(is_drawn)])
        self._moments.add(features)
        if logits is not None:
            self._logits.append(logits)
        if spatial is not None:
            self._spatial.add(spatial)

    def state(self) -> dict[str, Any]:
        """Return everything that `restore` needs, as tensors and plain data."""
        return {
            "moments": vars(self._moments),
            "spatial": vars(self._spatial),
            "kept": self._kept,
            "logits": self._logits,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from an earlier state; the result has the same bits as without a stop."""
        self._moments = Moments(**state["moments"])
        self._spatial = Moments(**(state["spatial"] or {}))  # None in states of earlier versions
        self._kept, self._logits = state["kept"], state["logits"]

    def result(self) -> FeatureSet:
        """Return the features of all N images."""
        seen = self._moments.seen
        assert seen == self._count, f"{seen} images instead of {self._count}"
        kept = torch.cat(self._kept)
        order = order_of_kept(len(kept))
        mean, covariance = self._moments.result()
        return FeatureSet(
            count=self._count,
            mean=mean,
            covariance=covariance,
            kept=kept[torch.from_numpy(order)],
            logits=torch.cat(self._logits) if self._logits else None,
            spatial=self._spatial.result() if self._spatial.seen else None,
        )


def drawn_images(count: int) -> np.ndarray:
    """Draw up to KEPT of `count` images, always the same ones: bool (count,)."""
    drawn = np.zeros(count, bool)
    drawn[rng(0, "kept features").permutation(count)[:KEPT]] = True
    return drawn


def order_of_kept(count: int) -> np.ndarray:
    """Return the order in which kept features are shuffled: int64 (count,)."""
    return rng(0, "order of kept features").permutation(count)


def kept_images(features: FeatureSet) -> np.ndarray:
    """Return the numbers of the images in `FeatureSet.kept`: int64 (rows,)."""
    assert features.kept is not None, "single images are kept"
    assert features.count is not None, "they are counted"
    has_all = len(features.kept) == features.count
    drawn = np.arange(features.count) if has_all else np.flatnonzero(drawn_images(features.count))
    return drawn[order_of_kept(len(drawn))]


def check_count(count: int, title: str) -> None:
    """Refuse fewer images than can be measured.

    Args:
        title: start of the message.

    Raises:
        UserError: if there are fewer than MIN_IMAGES.
    """
    if count < MIN_IMAGES:
        raise UserError(
            f"{title}: too few images to measure, {count}; at least {MIN_IMAGES} are "
            "needed, and 50,000 to compare with published scores"
        )


def extract(
    extractor: Extractor,
    blocks: Blocks,
    count: int,
    bar: tqdm,
    *,
    with_logits: bool,
    keeps_all: bool = False,
    unfinished: Unfinished | None = None,
) -> tuple[FeatureSet, np.ndarray]:
    """Extract the features of images.

    Args:
        blocks: images uint8 (B, H, W, C) and labels int (B,), or (B, F) where an image has several
            findings; without those that `unfinished` has.
        count: number of all images, at least MIN_IMAGES.
        bar: counts images; whoever makes them may advance it in between. It is closed at the end.
        with_logits: whether to keep the extractor's logits too.
        keeps_all: whether to keep the features of all images.
        unfinished: keeps the features of an interrupted measurement; None keeps nothing.

    Returns:
        The features, and the labels of all images.

    Raises:
        UserError: if the extractor cannot take them.
    """
    found = _Extraction(FeatureCollector(count, keeps_all), with_logits, unfinished)
    with bar:
        done = found.done
        try:
            for images, block_labels in blocks:
                found.add(extractor.start(images), block_labels)
                done += len(images)
                bar.update(done - bar.n)
            found.read_all()
        except BaseException:
            found.save()
            raise
    return found.collector.result(), torch.cat(found.labels).numpy()


class _Extraction:
    """The features and labels of some blocks, and what an interrupted measurement keeps of them.

    The features of a block are read after the network has started with the next block. So on CUDA
    it runs while the features before are added and the next images are made.

    Attributes:
        labels: those of each block.
    """

    def __init__(
        self, collector: FeatureCollector, with_logits: bool, unfinished: Unfinished | None
    ) -> None:
        """Start where `unfinished` stopped; the arguments are those of `extract`."""
        self.collector, self._with_logits, self._unfinished = collector, with_logits, unfinished
        self.labels: list[Tensor] = []
        self._waiting: deque[tuple[Callable[[], Features], np.ndarray]] = deque()
        self._is_whole = True  # an interruption can come in the middle of a block
        if unfinished is not None and unfinished.state is not None:
            collector.restore(unfinished.state["collector"])
            self.labels = unfinished.state["labels"]

    @property
    def done(self) -> int:
        """Number of images whose features were read."""
        return sum(map(len, self.labels))

    def add(self, read: Callable[[], Features], labels: np.ndarray) -> None:
        """Add a block that the network has started; read the one before it, and save in time."""
        self._waiting.append((read, labels))
        if len(self._waiting) > 1:
            self._read()
        if self._unfinished is not None and self._unfinished.is_due:
            self.save()

    def read_all(self) -> None:
        """Read the features of all blocks that were added."""
        while self._waiting:
            self._read()

    def save(self) -> None:
        """Write what an interrupted measurement keeps of all blocks that were added."""
        if self._unfinished is None or not self._is_whole:
            return
        self.read_all()  # what is measured beside the features has seen these blocks
        if self.labels:
            state = {"collector": self.collector.state(), "labels": self.labels}
            self._unfinished.save(self.done, state)

    def _read(self) -> None:
        """Read the features of the oldest block that waits."""
        read, labels = self._waiting[0]
        seen = read()
        self._is_whole = False
        self.collector.add(seen.features, seen.logits if self._with_logits else None, seen.spatial)
        self.labels.append(torch.from_numpy(labels))
        self._waiting.popleft()
        self._is_whole = True

"""Scores generated images against a dataset, with a protocol that describes the measurement.

The features of the dataset are extracted once and cached in a file. Its name has a digest of
everything that they depend on.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.generated import Blocks, images_from, open_generated
from metrics import scores as metrics
from metrics.extractor import Extractor
from metrics.protocols import PROTOCOLS, Protocol
from metrics.reference_file import ReferenceFile
from metrics.scores import FeatureCollector, FeatureSet
from metrics.unfinished import Unfinished
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.device import float32_name
from utils.errors import UserError, one_line
from utils.files import make_folder, write_json_atomic
from utils.progress import log_written, progress_bar
from utils.size import Size, size_text
from utils.version import VERSION

log = logging.getLogger(__name__)

STANDARD_IMAGES = 50_000  # for published scores
READ_IMAGES = 100  # of a reference file, at once
CACHE_KIND = "reference features"


@dataclass(frozen=True)
class Reference:
    """The real images to compare with.

    Attributes:
        split: "train" or "validation".
        source: digest of the dataset's files.
        size: height and width of an image in pixels, as `size_text` writes it.
        channels: channels of an image, 1 or 3.
        resize: how the images were resized (`Preparation.rule`).
    """

    dataset: str
    split: str
    source: str
    images: int
    classes: int
    size: int | str
    channels: int
    resize: str

    @property
    def title(self) -> str:
        """Name of the images in messages."""
        return f"{self.dataset} ({self.split})"

    @property
    def key(self) -> str:
        """Start of the name of the file that keeps their features."""
        return f"{self.dataset}-{self.split}"

    @property
    def name(self) -> str:
        """Name of the images beside a score, with their digest."""
        return f"{self.dataset} {self.split} {self.source}"


@dataclass(frozen=True)
class FileReference:
    """A file of statistics to compare with.

    Attributes:
        file: its name.
        sha256: first 16 digits of its SHA-256.
        holds: names, types and shapes of its contents.
        images: number of images behind the statistics, or of images in the file; None if unknown.
    """

    file: str
    sha256: str
    holds: str
    images: int | None

    @property
    def title(self) -> str:
        """Name of the images in messages."""
        return self.file

    @property
    def key(self) -> str:
        """Start of the name of the file that keeps their features."""
        return Path(self.file).stem

    @property
    def name(self) -> str:
        """Name of the images beside a score, with their digest."""
        return f"{self.file} {self.sha256}"


class Judge:
    """Scores images against a set of real ones, with the features of one extractor.

    Attributes:
        real: features of the real images.
    """

    def __init__(
        self,
        extractor: Extractor,
        about: Reference | FileReference,
        real: FeatureSet,
        classes: int | None,
        protocol: str = "ours",
    ) -> None:
        """Take the features of the real images.

        Args:
            about: what the real images are.
            classes: number of classes of the dataset; None if unknown.
            protocol: how to measure, a key of PROTOCOLS.
        """
        self._extractor, self._about, self._classes = extractor, about, classes
        self._protocol = protocol
        self.real = real

    def score(self, blocks: Blocks, count: int, title: str) -> dict[str, float]:
        """Compute all metrics of `count` images; arguments and errors as in `measure`."""
        return self.compare(self.measure(blocks, count, title))

    @property
    def distance(self) -> str:
        """Name of the Frechet distance of the extractor's features."""
        return self._extractor.distance

    def measure(
        self, blocks: Blocks, count: int, title: str, unfinished: Unfinished | None = None
    ) -> FeatureSet:
        """Extract the features of `count` images.

        Args:
            blocks: images uint8 (B, H, W, C) and labels int (B,); without those that `unfinished`
                has.
            unfinished: keeps the features of an interrupted measurement; None keeps nothing.

        Returns:
            The features; with labels only if the extractor has one logit for each class of the
            dataset.

        Raises:
            UserError: if there are too few images, or the extractor cannot take them.
        """
        keeps_all = PROTOCOLS[self._protocol].keeps_all
        generated, labels = extract(
            self._extractor,
            blocks,
            count,
            title,
            with_logits=True,
            keeps_all=keeps_all,
            unfinished=unfinished,
        )
        self._note_missing(labels)
        logits = generated.logits
        # Labels with two axes, for several findings, do not name a single class.
        if logits is not None and logits.shape[1] == self._classes and labels.ndim == 1:
            generated = replace(generated, labels=labels)
        return generated

    def compare(self, generated: FeatureSet) -> dict[str, float]:
        """Compute the scores of the protocol, as `metrics.scores.compare`; log their limits.

        Returns:
            The scores; "fid" has the name that it has for these features.
        """
        for limit in metrics.limits(generated, self.real):
            log.info("%s", limit)
        scores = metrics.compare(generated, self.real, PROTOCOLS[self._protocol].metrics)
        return {self.distance if name == "fid" else name: scores[name] for name in scores}

    def protocol(self, count: int) -> dict[str, Any]:
        """Describe what is needed to compare the scores of `count` images with others."""
        how = PROTOCOLS[self._protocol]
        return {
            "basis": f"{self._protocol}, {self._about.name}",
            "protocol": f"{self._protocol}, as {how.program}",
            "images": count,
            "reference": asdict(self._about),
            "extractor": {
                "name": self._extractor.name,
                "sha256": self._extractor.digest,
                **({"variant": self._extractor.variant} if self._extractor.variant else {}),
                "features": len(self.real.mean),
                "input": "uint8",
            },
            **how.settings(count, self.real),
            "rounding": how.rounding,
            "program": VERSION,
            "torch-fidelity": version("torch-fidelity"),
        }

    def _note_missing(self, labels: np.ndarray) -> None:
        """Warn if the images have labels, but not of all classes of the dataset."""
        if self._classes is None or labels.ndim != 1:
            return
        found = np.unique(labels[(labels >= 0) & (labels < self._classes)])
        if 0 < len(found) < self._classes:
            missing, classes = self._classes - len(found), self._classes
            log.warning("%d of %d classes have no image, which raises FID", missing, classes)


def check_count(count: int, title: str) -> None:
    """Refuse fewer images than can be measured.

    Args:
        title: start of the message.

    Raises:
        UserError: if there are fewer than metrics.MIN_IMAGES.
    """
    if count < metrics.MIN_IMAGES:
        raise UserError(
            f"{title}: {count} images are too few to measure; at least {metrics.MIN_IMAGES} are "
            "needed, and 50,000 to compare with published scores"
        )


def extract(
    extractor: Extractor,
    blocks: Blocks,
    count: int,
    title: str,
    *,
    with_logits: bool,
    keeps_all: bool = False,
    unfinished: Unfinished | None = None,
) -> tuple[FeatureSet, np.ndarray]:
    """Extract the features of images.

    Args:
        blocks: images uint8 (B, H, W, C) and labels int (B,), or (B, F) where an image has several
            findings; without those that `unfinished` has.
        with_logits: whether to keep the extractor's logits too.
        keeps_all: whether to keep the features of all images.
        unfinished: keeps the features of an interrupted measurement; None keeps nothing.

    Returns:
        The features, and the labels of all images.

    Raises:
        UserError: if there are fewer than metrics.scores.MIN_IMAGES, or the extractor cannot take
            them.
    """
    check_count(count, title)
    collector = FeatureCollector(count, keeps_all)
    labels: list[Tensor] = []
    if unfinished is not None and unfinished.state is not None:
        collector.restore(unfinished.state["collector"])
        labels = list(unfinished.state["labels"])

    def state() -> dict[str, Any]:
        return {"collector": collector.state(), "labels": labels}

    is_whole = True  # an interruption can come in the middle of a block
    try:
        with progress_bar(title, count, sum(map(len, labels)), unit="image") as bar:
            for images, block_labels in blocks:
                seen = extractor(images)
                is_whole = False
                collector.add(seen.features, seen.logits if with_logits else None, seen.spatial)
                labels.append(torch.from_numpy(block_labels))
                if unfinished is not None:
                    unfinished.finish_block(len(images), state)
                is_whole = True
                bar.update(len(images))
    except BaseException:
        if unfinished is not None and unfinished.done and is_whole:
            unfinished.save(state())
        raise
    return collector.result(), torch.cat(labels).numpy()


def file_features(
    extractor: Extractor,
    file: ReferenceFile,
    size: Size,
    channels: int,
    cache_dir: Path,
    protocol: Protocol,
) -> tuple[FileReference, FeatureSet]:
    """Make the features of the real images from a file of statistics, as a protocol needs them.

    If it also has images, their features are extracted for the metrics that compare single images,
    and for everything if it has no statistics.

    Args:
        size: height and width of the images to score, in pixels.
        channels: C of the images to score.

    Raises:
        UserError: if the file does not fit the extractor or the images.
    """
    about = FileReference(file.path.name, file.digest, file.holds, file.count)
    found = None
    if file.features is not None:
        check_count(len(file.features), file.path.name)
        collector = FeatureCollector(len(file.features), protocol.keeps_all)
        collector.add(file.features)
        found = collector.result()
    elif file.images is not None:
        count, height, width, _ = file.images
        if (height, width) != size:
            raise file.error(f"its images do not have the {size_text(size)} pixels of the others")
        about = replace(about, images=file.count or count)
        images = open_generated(file.path, size, channels)
        found = cached_features(
            extractor,
            replace(about, images=count),
            partial(images_from, images, READ_IMAGES),
            cache_dir,
            protocol.keeps_all,
        )
    if file.statistics is not None:
        kept = None if found is None else found.kept
        found = FeatureSet(file.count, *file.statistics, kept, spatial=file.spatial)
    assert found is not None, "a file without contents is refused"
    seen = extractor(np.zeros((1, *size, channels), np.uint8))
    _check_width(file, extractor.name, "features", seen.features, found.mean)
    if protocol.with_spatial and seen.spatial is not None:
        if found.spatial is None:
            raise file.error("sFID needs mu_s and sigma_s: take them, or another `protocol`")
        _check_width(file, extractor.name, "spatial features", seen.spatial, found.spatial[0])
    return about, found


def _check_width(file: ReferenceFile, net: str, what: str, seen: Tensor, mean: Tensor) -> None:
    """Refuse a file whose features have another width than those of the network, (B, D)."""
    if seen.shape[1] != len(mean):
        raise file.error(f"{net} has {what} of width {seen.shape[1]}, not {len(mean)}")


def cached_features(
    extractor: Extractor,
    reference: Reference | FileReference,
    blocks_from: Callable[[int], Blocks],
    cache_dir: Path,
    keeps_all: bool = False,
) -> FeatureSet:
    """Load the features of real images from the cache, or extract and cache them.

    Args:
        reference: the images, whose number is known.
        blocks_from: reads the images from this one on; called if their features are not cached.
        keeps_all: whether to keep the features of all images.

    Raises:
        UserError: if there are too few images, or the cached features are damaged.
    """
    assert reference.images is not None, "the images are known"
    identity = {
        **asdict(reference),
        "extractor": extractor.digest,
        "precision": float32_name(extractor.device),
        "kept": f"{'all' if keeps_all else metrics.KEPT} in random order",
        **({"variant": extractor.variant} if extractor.variant else {}),
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    path = cache_dir / f"features-{reference.key}-{digest}.pt"
    if not path.is_file():
        unfinished = Unfinished(path.with_suffix(".unfinished"), identity)
        found, _ = extract(
            extractor,
            blocks_from(unfinished.done),
            reference.images,
            f"features of {reference.title}",
            with_logits=False,
            keeps_all=keeps_all,
            unfinished=unfinished,
        )
        save_checkpoint(path, CACHE_KIND, {"identity": identity, "features": vars(found)})
        unfinished.remove()
    try:
        stored = load_checkpoint(path, CACHE_KIND)
    except UserError as error:
        raise UserError(f"{error}; delete the file to extract the features again") from error
    try:
        return _kept_features(stored, identity)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is damaged ({one_line(error)}); delete the file to extract the features again"
        ) from error


def _kept_features(stored: Mapping[str, Any], identity: Mapping[str, Any]) -> FeatureSet:
    """Extract the features from the contents of a cache file.

    Raises:
        AttributeError, KeyError, TypeError or ValueError: if the contents are wrong.
    """
    if stored["identity"] != identity:
        raise ValueError("it belongs to other images or another network")
    found = FeatureSet(**stored["features"])
    (width,) = found.mean.shape
    if found.count != identity["images"] or found.covariance.shape != (width, width):
        raise ValueError(f"it has {found.count} images and {tuple(found.covariance.shape)}")
    if found.kept is None or found.kept.ndim != 2 or found.kept.shape[1] != width:
        raise ValueError("its features have another shape")
    return found


def write_scores(
    path: Path, scores: Mapping[str, float | None], protocol: Mapping[str, Any]
) -> None:
    """Log scores with their protocol, and write both as JSON.

    Args:
        scores: scores by name; None if not measured.
        protocol: from `Judge.protocol`, possibly with more entries; "basis" is shown beside every
            score.

    Raises:
        UserError: if the file cannot be written.
    """
    make_folder(path.parent)
    warning = caution(protocol["images"], protocol["extractor"]["features"])
    found = {"scores": scores, "basis": protocol["basis"], "protocol": protocol, "caution": warning}
    write_json_atomic(path, found)
    log.info("%s", report(scores, protocol))
    if warning:
        log.warning("%s", warning)
    log_written(path)


def caution(count: int, width: int) -> str | None:
    """Return a warning if scores come from fewer than STANDARD_IMAGES images, else None.

    Args:
        count: number of images.
        width: width of a feature.
    """
    if count >= STANDARD_IMAGES:
        return None
    singular = (
        f"; {count} images do not fix a covariance of {width} features, so FID is far too high"
        if count <= width
        else ""
    )
    return (
        f"measured on {count} images: published figures use {STANDARD_IMAGES}, and FID falls as "
        f"the number grows, so compare only with scores of the same number{singular}"
    )


def report(scores: Mapping[str, float | None], protocol: Mapping[str, Any]) -> str:
    """Format scores, each with the basis of its comparison, and the protocol as aligned lines."""
    basis = protocol["basis"]
    lines = [
        f"{name:<22}{'not measured' if value is None else format(value, '.4f'):<14}{basis}"
        for name, value in scores.items()
    ]
    return "\n".join([*lines, "", *_protocol_lines(protocol)])


def _protocol_lines(protocol: Mapping[str, Any]) -> list[str]:
    """Format a protocol, one entry per line."""
    lines = []
    for name, value in protocol.items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{key} {entry}" for key, entry in value.items())
        lines.append(f"{name:<22}{value}")
    return lines

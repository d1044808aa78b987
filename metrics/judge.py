"""Scores generated images against a dataset, with a protocol that describes the measurement.

The features of the dataset are extracted once and cached in a file. Its name has a digest of
everything that they depend on.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from data.generated import Blocks
from metrics import scores as metrics
from metrics.extractor import Extractor
from metrics.scores import FeatureCollector, FeatureSet
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.device import float32_name
from utils.errors import UserError, one_line
from utils.files import make_folder, write_json_atomic
from utils.progress import log_written, progress_bar
from utils.version import VERSION

log = logging.getLogger(__name__)

STANDARD_IMAGES = 50_000  # for published scores
CACHE_KIND = "reference features"


@dataclass(frozen=True)
class Reference:
    """The real images to compare with.

    Attributes:
        split: "train" or "validation".
        source: digest of the dataset's files.
        size: height and width of an image in pixels, as `size_text` writes it.
        channels: channels of an image, 1 or 3.
        resize: how the images were resized (`data.spec.RESIZE`).
    """

    dataset: str
    split: str
    source: str
    images: int
    classes: int
    size: int | str
    channels: int
    resize: str


class Judge:
    """Scores images against a set of real ones, with the features of one extractor."""

    def __init__(
        self, extractor: Extractor, reference: Reference, blocks: Blocks, cache_dir: Path
    ) -> None:
        """Load the reference's features from the cache, or extract them.

        Args:
            blocks: the real images; read only if their features are not cached.

        Raises:
            UserError: if there are too few images, or the cached features are damaged.
        """
        self._extractor, self._reference = extractor, reference
        self._real = cached_features(extractor, reference, blocks, cache_dir)

    def score(self, blocks: Blocks, count: int, title: str) -> dict[str, float]:
        """Compute all metrics of `count` images.

        Args:
            blocks: images uint8 (B, H, W, C) and labels int (B,).

        Returns:
            The scores of `metrics.scores.compare`; "class_accuracy" only if the extractor has one
            logit for each class of the dataset.

        Raises:
            UserError: if there are too few images, or the extractor cannot take them.
        """
        generated, labels = extract(self._extractor, blocks, count, title, with_logits=True)
        logits = generated.logits
        # Labels with two axes, for several findings, do not name a single class.
        if logits is not None and logits.shape[1] == self._reference.classes and labels.ndim == 1:
            generated = replace(generated, labels=labels)
        return metrics.compare(generated, self._real)

    def protocol(self, count: int) -> dict[str, Any]:
        """Describe what is needed to compare the scores of `count` images with others."""
        return {
            "images": count,
            "reference": asdict(self._reference),
            "extractor": {
                "name": self._extractor.name,
                "sha256": self._extractor.digest,
                "features": len(self._real.mean),
                "input": "uint8",
            },
            **metrics.protocol(count, self._reference.images),
            "program": VERSION,
            "torch-fidelity": version("torch-fidelity"),
        }


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
    extractor: Extractor, blocks: Blocks, count: int, title: str, *, with_logits: bool
) -> tuple[FeatureSet, np.ndarray]:
    """Extract the features of images.

    Args:
        blocks: images uint8 (B, H, W, C) and labels int (B,), or (B, F) where an image has several
            findings.
        with_logits: whether to keep the extractor's logits too.

    Returns:
        The features, and the labels of all images.

    Raises:
        UserError: if there are fewer than metrics.scores.MIN_IMAGES, or the extractor cannot take
            them.
    """
    check_count(count, title)
    collector = FeatureCollector(count)
    labels = []
    with progress_bar(title, count, unit="image") as bar:
        for images, block_labels in blocks:
            seen = extractor(images)
            collector.add(seen.features, seen.logits if with_logits else None)
            labels.append(block_labels)
            bar.update(len(images))
    return collector.result(), np.concatenate(labels)


def cached_features(
    extractor: Extractor, reference: Reference, blocks: Blocks, cache_dir: Path
) -> FeatureSet:
    """Load the features of the real images from the cache, or extract and cache them.

    Arguments and errors are those of `Judge`.
    """
    identity = {
        **asdict(reference),
        "extractor": extractor.digest,
        "precision": float32_name(extractor.device),
        "kept": f"{metrics.KEPT} in random order",
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    path = cache_dir / f"features-{reference.dataset}-{reference.split}-{digest}.pt"
    if not path.is_file():
        title = f"features of {reference.dataset} ({reference.split})"
        found, _ = extract(extractor, blocks, reference.images, title, with_logits=False)
        save_checkpoint(path, CACHE_KIND, {"identity": identity, "features": vars(found)})
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
    if found.kept.ndim != 2 or found.kept.shape[1] != width:
        raise ValueError(f"its features have the shape {tuple(found.kept.shape)}")
    return found


def write_scores(
    path: Path, scores: Mapping[str, float | None], protocol: Mapping[str, Any]
) -> None:
    """Log scores with their protocol, and write both as JSON.

    Args:
        scores: scores by name; None if not measured.
        protocol: from `Judge.protocol`, possibly with more entries.

    Raises:
        UserError: if the file cannot be written.
    """
    make_folder(path.parent)
    warning = caution(protocol["images"])
    write_json_atomic(path, {"scores": scores, "protocol": protocol, "caution": warning})
    log.info("%s", report(scores, protocol))
    if warning:
        log.warning("%s", warning)
    log_written(path)


def caution(count: int) -> str | None:
    """Return a warning if scores come from fewer than STANDARD_IMAGES images, else None."""
    if count >= STANDARD_IMAGES:
        return None
    return (
        f"measured on {count} images: published figures use {STANDARD_IMAGES}, and FID falls as "
        "the number grows, so compare only with scores of the same number"
    )


def report(scores: Mapping[str, float | None], protocol: Mapping[str, Any]) -> str:
    """Format scores and protocol as aligned lines."""
    lines = [
        f"{name:<22}{'not measured' if value is None else format(value, '.4f')}"
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

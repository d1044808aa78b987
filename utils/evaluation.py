"""Measuring generated images against a dataset, with the protocol beside every number.

Features of the dataset are extracted once and kept in the cache folder, under a name that carries a
digest of everything they depend on.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from utils import metrics
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.device import float32_name
from utils.errors import UserError
from utils.extractor import Extractor
from utils.files import make_folder, write_json_atomic
from utils.metrics import FeatureCollector, FeatureSet, class_accuracy, compare
from utils.progress import progress_bar
from utils.samples import Blocks
from utils.version import VERSION

log = logging.getLogger(__name__)

STANDARD_IMAGES = 50_000
CACHE_KIND = "reference features"


@dataclass(frozen=True)
class Reference:
    """Real images to compare with.

    Attributes:
        dataset: its name.
        split: "train" or "validation".
        source: digest of the dataset's files.
        images: their number.
        classes: number of classes.
        size: side in pixels.
        channels: 1 or 3.
        resize: how they were brought to that size.
    """

    dataset: str
    split: str
    source: str
    images: int
    classes: int
    size: int
    channels: int
    resize: str


class Judge:
    """Scores images against one set of real ones, as seen by one extractor."""

    def __init__(
        self, extractor: Extractor, reference: Reference, blocks: Blocks, cache_dir: Path
    ) -> None:
        """Take the reference's features from the cache, or extract them.

        Args:
            extractor: sees all images.
            reference: describes the real images.
            blocks: the real images; read only if the cache lacks their features.
            cache_dir: where features are kept.

        Raises:
            UserError: if there are too few images, or the cached features are damaged.
        """
        self._extractor, self._reference = extractor, reference
        self._real = cached_features(extractor, reference, blocks, cache_dir)

    def score(self, blocks: Blocks, count: int, title: str) -> dict[str, float]:
        """All metrics of `count` images.

        Args:
            blocks: images uint8 (B, H, W, C) and labels int (B,).
            count: their number.
            title: of the progress bar.

        Returns:
            As `metrics.compare`; and "class_accuracy", the share of images in which the extractor
            sees the class asked for, if its logits are as many as the dataset's classes.
        """
        generated, labels = extract(self._extractor, blocks, count, title, with_logits=True)
        scores = compare(generated, self._real)
        logits = generated.logits
        # Multi-label data have no class that an image must show.
        if logits is not None and logits.shape[1] == self._reference.classes and labels.ndim == 1:
            accuracy = class_accuracy(logits, labels)
            if accuracy is not None:
                scores["class_accuracy"] = accuracy
        return scores

    def protocol(self, count: int) -> dict[str, Any]:
        """What a reader must know to compare the scores of `count` images with others."""
        neighbours = min(count, self._reference.images, metrics.KEPT)
        subset = min(metrics.KID_SUBSET_SIZE, neighbours)
        return {
            "images": count,
            "reference": asdict(self._reference),
            "extractor": {
                "name": self._extractor.name,
                "sha256": self._extractor.digest,
                "features": len(self._real.mean),
                "input": "uint8",
            },
            "kid": f"cubic kernel, {metrics.KID_SUBSETS} subsets of {subset}",
            "precision_recall": f"{metrics.NEIGHBOURS} neighbours, {neighbours} images a side",
            "inception_score": f"{metrics.IS_SPLITS} parts",
            "program": VERSION,
            "torch-fidelity": version("torch-fidelity"),
        }


def extract(
    extractor: Extractor, blocks: Blocks, count: int, title: str, *, with_logits: bool
) -> tuple[FeatureSet, np.ndarray]:
    """The features of `count` images, and their labels int (count,).

    Raises:
        UserError: if there are fewer than metrics.MIN_IMAGES.
    """
    if count < metrics.MIN_IMAGES:
        raise UserError(
            f"{title}: {count} images are too few to measure; at least {metrics.MIN_IMAGES} are "
            "needed, and 50,000 to compare with published figures"
        )
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
    """The features of the real images, from the cache or extracted now; errors as `Judge`."""
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
        raise UserError(f"{error}; delete the file and it is made anew") from error
    assert stored["identity"] == identity, "two references of one digest"
    return FeatureSet(**stored["features"])


def write_scores(
    path: Path, scores: Mapping[str, float | None], protocol: Mapping[str, Any]
) -> None:
    """Show scores with their protocol, and write both as JSON.

    Args:
        path: the file.
        scores: by name; None where something was not measured.
        protocol: as of `Judge.protocol`, and more.

    Raises:
        UserError: if the file cannot be written.
    """
    make_folder(path.parent)
    warning = caution(protocol["images"])
    write_json_atomic(path, {"scores": scores, "protocol": protocol, "caution": warning})
    log.info("%s", report(scores, protocol))
    if warning:
        log.warning("%s", warning)
    log.info("written: %s", path)


def caution(count: int) -> str | None:
    """What to say of scores of so few images, or None if they are enough."""
    if count >= STANDARD_IMAGES:
        return None
    return (
        f"measured on {count} images: published figures use {STANDARD_IMAGES}, and FID falls as "
        "the number grows, so compare with scores of the same number alone"
    )


def report(scores: Mapping[str, float | None], protocol: Mapping[str, Any]) -> str:
    """Scores and protocol as aligned lines, for people."""
    lines = [
        f"{name:<22}{'not measured' if value is None else format(value, '.4f')}"
        for name, value in scores.items()
    ]
    return "\n".join([*lines, "", *_protocol_lines(protocol)])


def _protocol_lines(protocol: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, value in protocol.items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{key} {entry}" for key, entry in value.items())
        lines.append(f"{name:<22}{value}")
    return lines

"""The features of the real images: of a split of a dataset, or of a file of statistics.

Those of images are extracted once and cached in a file. Its name has a digest of everything that
they depend on.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from data.generated import Blocks, images_from, open_generated
from metrics.extractor import Extractor
from metrics.features import KEPT, FeatureCollector, FeatureSet, check_count, extract
from metrics.protocols import Protocol
from metrics.reference_file import ReferenceFile
from metrics.unfinished import Unfinished
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.device import float32_name
from utils.errors import UserError, one_line
from utils.progress import progress_bar
from utils.records import checksum
from utils.size import Size, size_text

READ_IMAGES = 100  # of a reference file, at once
CACHE_KIND = "reference features"


@dataclass(frozen=True)
class Reference:
    """The real images to compare with: a split of a dataset, or what a file of statistics has.

    Attributes:
        title: their name in messages.
        key: start of the name of the file that keeps their features.
        name: their name beside a score, with their digest.
        facts: everything that identifies them, plain data for protocols and caches. "images" is
            their number; None if a file does not say it.
    """

    title: str
    key: str
    name: str
    facts: Mapping[str, Any]


def _reference_of(file: ReferenceFile, images: int | None) -> Reference:
    """Describe a file of statistics, of this number of images."""
    name = file.path.name
    facts = {"file": name, "sha256": file.digest, "holds": file.holds, "images": images}
    return Reference(name, file.path.stem, f"{name} {file.digest}", facts)


def file_features(
    extractor: Extractor,
    file: ReferenceFile,
    size: Size,
    channels: int,
    cache_dir: Path,
    protocol: Protocol,
) -> tuple[Reference, FeatureSet]:
    """Make the features of the real images from a file of statistics, as a protocol needs them.

    If it also has images, their features are extracted for the metrics that compare single images,
    and for everything if it has no statistics.

    Args:
        size: height and width of the images to score, in pixels.
        channels: C of the images to score.

    Raises:
        UserError: if the file does not fit the extractor or the images.
    """
    about, found = _reference_of(file, file.count), None
    if file.features is not None:
        check_count(len(file.features), file.path.name)
        collector = FeatureCollector(len(file.features), protocol.keeps_all)
        collector.add(file.features)
        found = collector.result()
    elif file.images_shape is not None:
        count, height, width, _ = file.images_shape
        if (height, width) != size:
            raise file.error(f"its images do not have the {size_text(size)} pixels of the others")
        about = _reference_of(file, file.count or count)
        images = open_generated(file.path, size, channels, with_labels=False)
        found = cached_features(
            extractor,
            _reference_of(file, count),
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
    reference: Reference,
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
    identity = {
        **reference.facts,
        "extractor": extractor.digest,
        "precision": float32_name(extractor.device),
        "kept": f"{'all' if keeps_all else KEPT} in random order",
        **({"variant": extractor.variant} if extractor.variant else {}),
    }
    path = cache_dir / f"features-{reference.key}-{checksum(identity)[:12]}.pt"
    if not path.is_file():
        unfinished = Unfinished(path, identity)
        count, title = reference.facts["images"], f"features of {reference.title}"
        check_count(count, title)
        found, _ = extract(
            extractor,
            blocks_from(unfinished.done),
            count,
            progress_bar(title, count, unfinished.done, unit="image"),
            with_logits=False,
            keeps_all=keeps_all,
            unfinished=unfinished,
        )
        save_checkpoint(path, CACHE_KIND, {"identity": identity, "features": vars(found)})
        unfinished.remove()
    advice = "delete the file to extract the features again"
    try:
        return _kept_features(load_checkpoint(path, CACHE_KIND), identity)
    except UserError as error:
        raise UserError(f"{error}; {advice}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({one_line(error)}); {advice}") from error


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

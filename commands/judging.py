"""Shared by the modes that score images: the real images, and the feature network."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple, get_args

from commands.parser import CommandLine
from commands.request import Data, Request
from data.batches import uint8_blocks
from data.images import ImageDataset
from data.spec import Split
from metrics.better import DINOV2, FEATURES, INCEPTION
from metrics.dinov2 import load_dinov2
from metrics.extractor import Extractor, load_feature_net, load_inception
from metrics.features import check_count
from metrics.judge import Judge
from metrics.protocols import PROTOCOLS, Protocol
from metrics.reference_file import ReferenceFile, check_written, read_reference, write_reference
from metrics.references import Reference, cached_features, file_features
from utils.errors import FieldError, UserError
from utils.progress import log_written
from utils.size import size_text

SPLITS: tuple[Split, ...] = get_args(Split)


class SplitImages(NamedTuple):
    """A split of a dataset and its images."""

    split: Split
    images: ImageDataset


@dataclass(frozen=True)
class JudgeSource:
    """Everything that makes a judge of images.

    Attributes:
        real: what images are compared with: a split, or a file of statistics.
        batch_size: real images read at once.
        extractor: returns the network whose features are compared.
        written: file for the statistics of the split, for other programs; None writes none.
    """

    real: SplitImages | ReferenceFile
    data: Data
    batch_size: int
    extractor: Callable[[], Extractor]
    how: Protocol
    written: Path | None = None

    def open(self) -> Judge:
        """Make the judge; take the features of the real images from the cache, or extract them."""
        extractor, data = self.extractor(), self.data
        if isinstance(self.real, ReferenceFile):
            known = file_features(
                extractor, self.real, data.size, data.spec.channels, data.cache_folder, self.how
            )
            return Judge(extractor, *known, data.spec.num_classes, self.how)
        split, images = self.real
        name, source = data.spec.name, images.fingerprint[:16]
        facts = {
            "dataset": name,
            "split": split,
            "source": source,
            "images": len(images),
            "classes": len(images.class_names),
            "size": size_text(images.size),
            "channels": images.channels,
            "resize": images.preparation.rule,
        }
        names = (f"{name} ({split})", f"{name}-{split}", f"{name} {split} {source}")
        reference = Reference(*names, facts)
        blocks_from = partial(uint8_blocks, images, self.batch_size, data.num_workers)
        real = cached_features(extractor, reference, blocks_from, data.cache_folder)
        if self.written is not None:
            write_reference(self.written, real, blocks_from(), extractor.distance)
            log_written(self.written, f"the statistics of {reference.title}, for other programs")
        return Judge(extractor, reference, real, len(images.class_names), self.how)


def check_judge(line: CommandLine) -> None:
    """Refuse files that are missing, and a --write_reference that cannot be written."""
    for name in ("feature_weights", "perceptual_vgg"):
        file = getattr(line, name)
        if file and not Path(file).is_file():
            raise FieldError(name, file, "there is no such file")
    _check_features(line)
    is_file = line.reference is not None and line.reference not in SPLITS
    if is_file and not Path(line.reference).is_file():
        reason = f"it is neither {' nor '.join(SPLITS)}, nor a file of statistics"
        raise FieldError("reference", line.reference, reason)
    if line.labels and not PROTOCOLS[line.protocol].takes_any:
        raise UserError(
            f"--protocol {line.protocol} samples all classes in turn; leave --labels out"
        )
    if line.write_reference:
        check_written(Path(line.write_reference))
        if is_file and line.evaluate != "tokenizer":
            raise UserError(
                "--write_reference writes the statistics of a split: leave --reference "
                "out, or name a split"
            )


def _check_features(line: CommandLine) -> None:
    """Refuse features that are not there, or together with what measures others."""
    if line.features not in FEATURES:
        if not Path(line.features).is_file():
            reason = f"it is neither {' nor '.join(FEATURES)}, nor a file on this machine"
            raise FieldError("features", line.features, reason)
        if line.feature_weights:
            raise UserError(f"--feature_weights is for --features {' or '.join(FEATURES)}")
    if line.features not in DINOV2:
        return
    if line.asks_for("sweep") or (line.asks_for("train") and line.evaluate_every):
        reason = "--sweep and --evaluate_every choose by FID, which it does not measure"
        raise UserError(f"--features {line.features}: {reason}; run --evaluate alone")
    if not PROTOCOLS[line.protocol].with_dinov2:
        raise UserError(f"--protocol {line.protocol} measures Inception's features alone")


def _extractor(request: Request, written: Path | None) -> Callable[[], Extractor]:
    """Return what opens the network whose features are compared, once for all modes."""
    line, device = request.line, request.machine.device
    how = PROTOCOLS[line.protocol]
    with_spatial = how.with_spatial or (written is not None and written.suffix == ".npz")
    weights = Path(line.feature_weights) if line.feature_weights else None

    def load() -> Extractor:
        if line.features == INCEPTION:
            return load_inception(weights, device, with_spatial, how.resize)
        if line.features in DINOV2:
            return load_dinov2(line.features, weights, device)
        return load_feature_net(Path(line.features), device)

    key = ("extractor", line.features, weights, with_spatial, how.resize)
    opened: Callable[[], Extractor] = request.opened.setdefault(key, cache(load))
    return opened


def resolve_judge(
    request: Request, data: Data, reference: str | None = None, count: int | None = None
) -> JudgeSource:
    """Choose the real images, and open the feature network, except in a dry run.

    Args:
        request: the command line.
        data: the dataset.
        reference: the split to compare with, or a file of statistics; None takes --reference, or
            else the training split.
        count: number of images to measure; None if it is not known yet.

    Raises:
        UserError: if the network, the split or the file cannot be opened, or there are too few
            images.
    """
    line = request.line
    reference = reference or line.reference or "train"
    written = Path(line.write_reference) if line.write_reference else None
    extractor = _extractor(request, written)
    if not line.dry_run:
        extractor()  # finds an unreadable file now, not after hours of sampling
    if count is not None:
        check_count(count, "measuring")
    real: SplitImages | ReferenceFile
    if reference in SPLITS:
        real = SplitImages(reference, data.open(reference))
        check_count(len(real.images), f"features of {data.spec.name} ({reference})")
    else:
        distance = "fd_dinov2" if line.features in DINOV2 else "fid"
        real, written = read_reference(Path(reference), distance), None
    return JudgeSource(
        real=real,
        data=data,
        batch_size=line.batch_size,
        extractor=extractor,
        how=PROTOCOLS[line.protocol],
        written=written,
    )

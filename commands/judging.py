"""Shared by the modes that score images: the real images, and the feature network."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from commands.parser import CommandLine
from commands.request import Data, Request
from data.batches import uint8_blocks
from data.images import ImageDataset
from data.spec import RESIZE, Split
from metrics.extractor import Extractor, open_extractor
from metrics.judge import Judge, Reference, check_count
from utils.errors import FieldError
from utils.size import size_text


@dataclass(frozen=True)
class JudgeSource:
    """Everything that makes a judge of images.

    Attributes:
        split: the split that images are compared with.
        batch_size: real images read at once.
        cache_folder: folder for the features of the real images.
        extractor: returns the network whose features are compared.
    """

    split: Split
    images: ImageDataset
    data: Data
    batch_size: int
    cache_folder: Path
    extractor: Callable[[], Extractor]

    def open(self) -> Judge:
        """Make the judge; take the features of the real images from the cache, or extract them."""
        images = self.images
        reference = Reference(
            dataset=self.data.spec.name,
            split=self.split,
            source=images.fingerprint[:16],
            images=len(images),
            classes=len(images.class_names),
            size=size_text(images.size),
            channels=images.channels,
            resize=RESIZE,
        )
        blocks = uint8_blocks(images, self.batch_size, self.data.num_workers)
        return Judge(self.extractor(), reference, blocks, self.cache_folder)


def check_extractor(line: CommandLine) -> None:
    """Refuse a feature network whose file is missing."""
    for name in ("feature_net", "inception_weights"):
        file = getattr(line, name)
        if file and not Path(file).is_file():
            raise FieldError(name, file, "there is no such file")


def resolve_judge(
    request: Request, data: Data, default_split: Split, count: int | None = None
) -> JudgeSource:
    """Choose the real images, and open the feature network, except in a dry run.

    Args:
        request: the command line.
        data: the dataset.
        default_split: the split to compare with if --reference is not given.
        count: number of images to measure; None if it is not known yet.

    Raises:
        UserError: if the network or the split cannot be opened, or there are too few images.
    """
    line = request.line
    files = (line.feature_net, line.inception_weights)
    net, inception = (Path(file) if file else None for file in files)
    extractor = request.opened.setdefault(
        (net, inception), cache(lambda: open_extractor(net, inception, request.machine.device))
    )
    if not line.dry_run:
        extractor()  # finds an unreadable file now, not after hours of sampling
    split = line.reference or default_split
    images = data.open(split)
    check_count(len(images), f"features of {data.spec.name} ({split})")
    if count is not None:
        check_count(count, "measuring")
    return JudgeSource(
        split=split,
        images=images,
        data=data,
        batch_size=line.batch_size,
        cache_folder=request.cache_folder(),
        extractor=extractor,
    )

"""Batches of images for training a tokenizer and for measuring tokenizers.

Images go to the device as bytes, a quarter of the size of floats, and become floats there. They are
copied from pinned memory, so that the program does not wait for the copy.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.images import Copies, ImageDataset, flip_view
from utils.device import send
from utils.pictures import from_uint8
from utils.seeding import rng
from utils.workers import batches_of

EpochBatches = Callable[[int, int], Iterator[Tensor]]
"""(epoch, first batch) -> the epoch's images from this batch on: float (B, C, H, W) in [-1, 1]."""


def training_batches(
    images: ImageDataset, batch_size: int, seed: int, num_workers: int, device: torch.device
) -> EpochBatches:
    """Make batches on the device, in an order and under flips that depend on (seed, epoch) alone.

    At the end of an epoch, images that do not fill a batch are left out. If all images together do
    not fill a batch, they are one smaller batch.
    """
    batch_size = min(batch_size, len(images))
    num_batches = len(images) // batch_size

    def batches(epoch: int, first_batch: int) -> Iterator[Tensor]:
        order = rng(seed, "image order", epoch).permutation(len(images))
        views = rng(seed, "image views", epoch).integers(0, images.num_views, len(images))
        used = slice(first_batch * batch_size, num_batches * batch_size)
        copies, flips = np.divmod(views[used], images.num_flips)
        chosen = ((int(i), [int(c)]) for i, c in zip(order[used], copies, strict=True))
        loader = _loader(Copies(images), chosen, batch_size, num_workers)
        flips = torch.from_numpy(flips).split(batch_size)
        for (pixels, _), view in zip(loader, flips, strict=True):
            yield from_uint8(send(_flip(pixels[:, 0], view), device))

    return batches


def labeled_batches(
    images: ImageDataset, batch_size: int, num_workers: int, device: torch.device, first: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield all images from the `first` on in their order, without flips, and their labels.

    Yields:
        Images float (B, C, H, W) in [-1, 1] on the device, labels on the host.
    """
    for pixels, labels in _loader(images, range(first, len(images)), batch_size, num_workers):
        yield from_uint8(send(pixels, device)), labels


def validation_batches(
    images: ImageDataset, batch_size: int, num_workers: int, device: torch.device
) -> Iterator[Tensor]:
    """Yield what `labeled_batches` does, without the labels."""
    return (batch for batch, _ in labeled_batches(images, batch_size, num_workers, device))


def uint8_blocks(
    images: ImageDataset, batch_size: int, num_workers: int, first: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield images in their order, without flips, as uint8 (B, H, W, C), and their labels.

    Args:
        first: the first image to yield.
    """
    for pixels, labels in _loader(images, range(first, len(images)), batch_size, num_workers):
        yield pixels.permute(0, 2, 3, 1).numpy(), labels.numpy()


def _loader(images: Dataset, keys: Iterable, batch_size: int, num_workers: int) -> Iterator:
    """Read the images with these keys in order."""
    return batches_of(images, num_workers, batch_size=batch_size, sampler=keys)


def _flip(pixels: Tensor, views: Tensor) -> Tensor:
    """Flip each image (B, C, H, W), in place, by the number of its view (B,)."""
    for view in views.unique().tolist():
        chosen = views == view
        pixels[chosen] = flip_view(pixels[chosen], view)
    return pixels

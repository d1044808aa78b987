"""Batches of images for training a tokenizer and for measuring tokenizers.

Images go to the device as bytes, which are a quarter of the size of floats, and become floats
there. They come from pinned memory, so that the program need not wait for the copy.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from data.images import ImageDataset, flip_view
from utils.device import send
from utils.pictures import from_uint8
from utils.seeding import rng
from utils.workers import batches_of

EpochBatches = Callable[[int, int], Iterator[Tensor]]
"""(epoch, first batch) gives images float (B, C, H, W) in [-1, 1], from that batch of the epoch."""


def training_batches(
    images: ImageDataset, batch_size: int, seed: int, num_workers: int, device: torch.device
) -> EpochBatches:
    """Make batches on the device, in an order and under flips that depend on (seed, epoch) alone.

    At the end of an epoch, images that do not fill a batch are left out. If there are fewer images
    than fill one batch, all of them are a smaller batch.
    """
    batch_size = min(batch_size, len(images))
    num_batches = len(images) // batch_size

    def batches(epoch: int, first_batch: int) -> Iterator[Tensor]:
        order = rng(seed, "image order", epoch).permutation(len(images))
        views = rng(seed, "image views", epoch).integers(0, images.num_views, len(images))
        used = slice(first_batch * batch_size, num_batches * batch_size)
        # An array, as workers would copy a list of a million numbers one by one.
        chosen = Subset(images, order[used])  # type: ignore[arg-type]
        flips = torch.from_numpy(views[used]).split(batch_size)
        for (pixels, _), view in zip(_loader(chosen, batch_size, num_workers), flips, strict=True):
            yield from_uint8(send(_flip(pixels, view), device))

    return batches


def labelled_batches(
    images: ImageDataset, batch_size: int, num_workers: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield all images in their order, without flips, and their labels.

    Yields:
        Images float (B, C, H, W) in [-1, 1] on the device, labels on the host.
    """
    for pixels, labels in _loader(images, batch_size, num_workers):
        yield from_uint8(send(pixels, device)), labels


def validation_batches(
    images: ImageDataset, batch_size: int, num_workers: int, device: torch.device
) -> Iterator[Tensor]:
    """Yield what `labelled_batches` does, without the labels."""
    return (batch for batch, _ in labelled_batches(images, batch_size, num_workers, device))


def uint8_blocks(
    images: ImageDataset, batch_size: int, num_workers: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield all images in their order, without flips, as uint8 (B, H, W, C), and their labels."""
    for pixels, labels in _loader(images, batch_size, num_workers):
        yield pixels.permute(0, 2, 3, 1).numpy(), labels.numpy()


def _loader(images: Dataset, batch_size: int, num_workers: int) -> Iterator:
    """Read batches in order, into pinned memory where the program uses CUDA."""
    loader = DataLoader(
        images, batch_size, num_workers=num_workers, pin_memory=torch.cuda.is_initialized()
    )
    return batches_of(loader)


def _flip(pixels: Tensor, views: Tensor) -> Tensor:
    """Flip each image (B, C, H, W), in place, as its own view (B,) shows it."""
    for view in views.unique().tolist():
        if view:
            chosen = views == view
            pixels[chosen] = flip_view(pixels[chosen], view)
    return pixels

"""Batches of images: what an epoch holds, and in which order."""

import numpy as np
import pytest
import torch
from PIL import Image

from data.batches import labeled_batches, training_batches, uint8_blocks
from data.images import ArrayImages, ImageDataset, Source, flip_view
from utils.seeding import rng

CPU = torch.device("cpu")
COUNT = 10


@pytest.fixture
def images(tmp_path):
    """Color images that differ from their mirror image; used under four flips."""
    pixels = rng(0, "pixels").integers(0, 256, (COUNT, 4, 6, 3)).astype(np.uint8)
    source = Source(ArrayImages(pixels, np.arange(COUNT)), tmp_path, [], tmp_path)
    return ImageDataset(source, (), 3, (4, 6), num_flips=4)


def views_of(images):
    """The number of an image and its flip, by its bytes."""
    return {
        flip_view(images[index][0], flip).numpy().tobytes(): (index, flip)
        for index in range(len(images))
        for flip in range(4)
    }


def shown(images, batches):
    """The numbers of the images, and their flips, in each batch."""
    views = views_of(images)
    found = []
    for batch in batches:
        assert batch.dtype == torch.float32
        levels = (batch + 1) * 127.5
        whole = levels.round()
        assert torch.allclose(levels, whole, atol=1e-3)
        found.append([views[image.to(torch.uint8).numpy().tobytes()] for image in whole])
    return found


@pytest.mark.parametrize(("batch_size", "sizes"), [(3, [3, 3, 3]), (5, [5, 5]), (99, [10])])
def test_an_epoch_has_full_batches_of_different_images(images, batch_size, sizes):
    found = shown(images, training_batches(images, batch_size, 0, 0, CPU)(0, 0))
    assert [len(batch) for batch in found] == sizes
    assert len({index for batch in found for index, _ in batch}) == sum(sizes)


def test_an_epoch_goes_on_from_any_of_its_batches(images):
    batches = training_batches(images, 3, 0, 0, CPU)
    whole = shown(images, batches(1, 0))
    for first in range(3):
        assert shown(images, batches(1, first)) == whole[first:]


def test_order_and_flips_depend_on_seed_and_epoch_alone(images):
    def epochs(seed, batch_size=5):
        batches = training_batches(images, batch_size, seed, 0, CPU)
        found = (shown(images, batches(epoch, 0)) for epoch in range(20))
        return [[view for batch in epoch for view in batch] for epoch in found]

    found = epochs(0)
    assert epochs(0) == found
    torch.manual_seed(1)
    assert epochs(0, batch_size=2) == found
    assert len({str(epoch) for epoch in found + epochs(1)}) == 40
    orders = [[index for index, _ in epoch] for epoch in found + epochs(1)]
    assert len(set(map(tuple, orders))) == 40
    # Each image comes under each flip, and at other places.
    assert {view for epoch in found for view in epoch} == set(views_of(images).values())
    assert len({epoch.index(view) for epoch in found for view in epoch if view[0] == 3}) > 5


@pytest.mark.parametrize("first", [0, 4, COUNT])
def test_to_measure_all_images_come_in_their_order_with_their_labels(images, first):
    floats = list(labeled_batches(images, 4, 0, CPU, first))
    found = [view for batch in shown(images, (batch for batch, _ in floats)) for view in batch]
    expected = list(range(first, COUNT))
    assert found == [(index, 0) for index in expected]
    assert [label for _, labels in floats for label in labels.tolist()] == expected
    blocks = list(uint8_blocks(images, 4, 0, first))
    assert [label for _, labels in blocks for label in labels.tolist()] == expected
    pixels = [Image.fromarray(image) for block, _ in blocks for image in block]
    original = images.source.items
    assert [np.asarray(one).tolist() for one in pixels] == [
        np.asarray(original[index][0]).tolist() for index in expected
    ]

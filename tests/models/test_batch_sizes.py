"""Few sizes of batch."""

import math

import pytest
import torch

from models.batch_sizes import in_few_sizes


@pytest.mark.parametrize(
    ("most", "counts", "expected"),
    [
        (1.25, [1, 2, 3, 5, 17, 60], [1, 4, 4, 16, 64, 64]),
        (1.25, [100, 200, 90, 79, 160, 101], [100, 200, 100, 79, 200, 101]),
        (math.inf, [100, 200, 90, 70, 5, 201], [100, 200, 100, 100, 100, 201]),
    ],
)
def test_a_batch_is_filled_up_and_its_rows_stay_as_they_are(most, counts, expected):
    seen = []

    def function(images, labels):
        seen.append(len(images))
        assert images.is_contiguous(memory_format=torch.channels_last)
        return images.sum((1, 2, 3)) + labels

    wrapped = in_few_sizes(function, most)
    for count in counts:
        images = torch.rand(count, 3, 4, 5).to(memory_format=torch.channels_last)
        labels = torch.arange(count)
        assert torch.equal(wrapped(images, labels), images.sum((1, 2, 3)) + labels)
    assert seen == expected


def test_an_empty_batch_stays_empty():
    assert in_few_sizes(lambda rows: rows, 1)(torch.empty(0, 3)).shape == (0, 3)

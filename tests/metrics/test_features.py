"""Features are read one block later, in order, and an interruption loses none of them."""

import numpy as np
import pytest
import torch

from metrics.extractor import Extractor
from metrics.features import FeatureCollector, extract
from metrics.unfinished import Unfinished
from utils.errors import UserError
from utils.progress import progress_bar


@pytest.fixture
def events(monkeypatch):
    """What happens to the blocks, in order: started and read, with their number."""
    found, start = [], Extractor.start

    def noted(extractor, images):
        number = int(images[0, 0, 0, 0])
        found.append(("start", number))
        read = start(extractor, images)
        return lambda: (found.append(("read", number)), read())[1]

    monkeypatch.setattr(Extractor, "start", noted)
    return found


def blocks_of(*numbers, end=None):
    """Blocks of five images whose pixels are the number of the block; then an error."""
    for number in numbers:
        images = np.full((5, 4, 4, 1), number, np.uint8)
        images[:, 1] = np.arange(5)[:, None, None]
        yield images, np.full(5, number)
    if end is not None:
        raise end


def net(pixels):
    """Features float (B, 2), not finite in block 7."""
    return torch.where(pixels[:, 0, 0, :2] == 7, torch.nan, pixels[:, 0, :2, 0].float())


def measured(blocks, count, unfinished=None):
    extractor = Extractor("the net", "", net, torch.device("cpu"), needs_color=False)
    bar = progress_bar("measuring", count)
    return extract(extractor, blocks, count, bar, with_logits=False, unfinished=unfinished)


def test_a_block_is_read_when_the_next_has_started(events):
    found, labels = measured(blocks_of(1, 2, 3), 15)
    assert events == [
        ("start", 1),
        ("start", 2),
        ("read", 1),
        ("start", 3),
        ("read", 2),
        ("read", 3),
    ]
    assert labels.tolist() == [1] * 5 + [2] * 5 + [3] * 5
    assert sorted(found.kept[:, 0].tolist()) == labels.tolist()
    assert found.mean.tolist() == [2, 2]


@pytest.mark.parametrize("end", [KeyboardInterrupt(), UserError("a damaged image")])
def test_blocks_before_an_error_are_kept(tmp_path, end):
    whole, _ = measured(blocks_of(1, 2, 3, 4), 20)
    result = tmp_path / "scores.json"
    with pytest.raises(type(end)):
        measured(blocks_of(1, 2, end=end), 20, Unfinished(result, {}))
    unfinished = Unfinished(result, {})
    assert unfinished.done == 10
    resumed, labels = measured(blocks_of(3, 4), 20, unfinished)
    assert labels.tolist() == [1] * 5 + [2] * 5 + [3] * 5 + [4] * 5
    for name in ("mean", "covariance", "kept"):
        assert getattr(resumed, name).equal(getattr(whole, name))


def test_a_state_of_an_earlier_version_is_restored():
    whole, stopped, resumed = (FeatureCollector(4) for _ in range(3))
    images = torch.rand(4, 3)
    for collector in (whole, stopped):
        collector.add(images[:2])
    resumed.restore({**stopped.state(), "spatial": None})
    for collector in (whole, resumed):
        collector.add(images[2:])
    assert resumed.result().covariance.equal(whole.result().covariance)


@pytest.mark.parametrize("numbers", [(7, 1, 2), (1, 7, 2), (1, 2, 7)])
def test_features_that_are_not_finite_are_named_in_any_block(tmp_path, numbers):
    with pytest.raises(UserError, match="the net returns values that are not finite"):
        measured(blocks_of(*numbers), 15, Unfinished(tmp_path / "scores.json", {}))

"""What --dry_run says about time and memory."""

import sys

import numpy as np
import pytest
import torch

from commands import trial
from commands.trial import Cost, cost_of, cost_of_training
from training.config import LoopConfig

CPU = torch.device("cpu")
PER_IMAGE = 4 << 20  # bytes


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the work moves."""
    now = [0.0]
    monkeypatch.setattr(trial.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize("images", [1, 2, 5, 8, 200])
def test_time_is_extrapolated_from_a_few_images(clock, images):
    """A part of it, as that of the optimizer, does not grow with the images."""
    done = []

    def prepare(count):
        def work():
            done.append(count)
            clock[0] += 0.3 + 0.1 * count

        return work

    assert cost_of(prepare, images, CPU).seconds == pytest.approx(0.3 + 0.1 * images)
    assert max(done) == min(images, 8)  # of these the work takes long


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux measures the memory of a part")
def test_memory_is_extrapolated_from_a_few_images(clock):
    held = []

    def prepare(count):
        def work():
            held[:] = [np.ones(PER_IMAGE * count, np.uint8)]
            held.clear()
            clock[0] += 1  # long enough for no larger part

        return work

    few, many = (cost_of(prepare, images, CPU).memory for images in (8, 200))
    assert many - few == pytest.approx(PER_IMAGE * (200 - 8), rel=0.25)


def test_the_whole_is_steps_and_validations_and_tokens():
    step = Cost(seconds=3.0, memory=5.6e9)
    loop = LoopConfig(5, images_per_step=10)
    text = cost_of_training(step, 100, 0, loop, held_out=20, encoding=50)
    assert text == "6 min, 5.6 GB of memory; 3 s a step, with 50 s for the tokens"
    # A run that goes on has its tokens.
    text = cost_of_training(step, 100, 60, loop, held_out=20, encoding=50)
    assert text == "2 min, 5.6 GB of memory; 3 s a step, after the 60 steps that the run has made"
    assert cost_of_training(step, 100, 100, loop, held_out=20).startswith("0 s, ")


def test_a_limited_time_is_the_cost():
    loop = LoopConfig(5, images_per_step=10, begins_at=600.0, ends_at=2400.0)
    text = cost_of_training(Cost(3.0, 5.6e9), 100_000, 0, loop, held_out=20)
    assert text == "30 min, 5.6 GB of memory; 3 s a step"

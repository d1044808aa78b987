import numpy as np
import pytest

from models.masking import masks_of_ratio
from models.schedules import MASK_SCHEDULES


def drawn_masks(count, seq_len, schedule):
    generator = np.random.default_rng(0)
    return masks_of_ratio(generator, MASK_SCHEDULES[schedule](generator.random(count)), seq_len)


@pytest.mark.parametrize("schedule", MASK_SCHEDULES)
def test_schedules_fall_from_one_to_zero(schedule):
    ratios = MASK_SCHEDULES[schedule](np.linspace(0, 1, 101))
    assert ratios[0] == 1
    assert ratios[-1] == pytest.approx(0, abs=1e-12)
    assert (np.diff(ratios) < 0).all()


def test_arccos_and_cosine_hide_the_same_share_on_average():
    u = (np.arange(100_000) + 0.5) / 100_000
    assert MASK_SCHEDULES["arccos"](u).mean() == pytest.approx(2 / np.pi, abs=1e-4)
    assert MASK_SCHEDULES["cosine"](u).mean() == pytest.approx(2 / np.pi, abs=1e-4)


@pytest.mark.parametrize(("ratio", "count"), [(0.0, 1), (1e-9, 1), (0.5, 8), (0.51, 9), (1.0, 16)])
def test_exactly_the_ceiling_of_the_ratio_is_hidden(ratio, count):
    masks = masks_of_ratio(np.random.default_rng(0), np.full(50, ratio), 16)
    assert (masks.sum(axis=1) == count).all()


def test_every_position_is_hidden_equally_often():
    masks = drawn_masks(20_000, 16, "arccos")
    assert masks.mean(axis=0) == pytest.approx(np.full(16, masks.mean()), abs=0.02)


def test_each_schedule_hides_its_own_share():
    shares = {name: drawn_masks(4000, 64, name).mean() for name in MASK_SCHEDULES}
    assert shares["root"] < shares["linear"] < shares["arccos"] < shares["square"]

"""Copies of training images are found, and fresh images are not taken for copies."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from metrics import nearest_features
from metrics.features import FeatureCollector, kept_images
from metrics.nearest_features import find_nearest, nearest_rows


def points(count, seed, width=6):
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def by_hand(samples, training):
    """AuthPct, point by point."""
    authentic = 0
    for sample in samples:
        own = np.linalg.norm(training - sample, axis=1)
        others = np.delete(training, own.argmin(), axis=0)
        to_next = np.linalg.norm(others - training[own.argmin()], axis=1).min()
        authentic += own.min() > to_next
    return 100 * authentic / len(samples)


@pytest.mark.parametrize("block", [7, 1000])
def test_it_agrees_with_a_slow_count(monkeypatch, block):
    monkeypatch.setattr(nearest_features, "BLOCK", block)
    training, samples = points(200, 0), points(50, 1)
    found = find_nearest(torch.from_numpy(samples), torch.from_numpy(points(80, 2)), training)
    all_distances = np.linalg.norm(samples[:, None] - training, axis=2)
    np.testing.assert_array_equal(found.images, all_distances.argmin(1))
    np.testing.assert_allclose(found.distances, all_distances.min(1), rtol=1e-5)
    assert found.scores["auth_pct"] == pytest.approx(by_hand(samples, training))


def test_copies_are_named_and_fresh_points_are_not():
    training, validation = points(500, 0), torch.from_numpy(points(400, 1))
    copies = find_nearest(torch.from_numpy(training[100:200]), validation, training)
    assert copies.scores == {"auth_pct": 0, "close_share": 1}
    assert "the samples look like copies" in copies.verdict
    np.testing.assert_array_equal(copies.images, np.arange(100, 200))
    fresh = find_nearest(torch.from_numpy(points(400, 2)), validation, training)
    assert fresh.scores["close_share"] < 0.05
    assert fresh.scores["auth_pct"] > 50
    assert "do not look like copies" in fresh.verdict
    for share, verdict in ((0.049, "do not look"), (0.051, "look")):
        found = replace(fresh, scores={"close_share": share}).verdict
        assert f"the samples {verdict} like copies" in found


def test_a_point_far_from_zero_is_still_at_no_distance_from_its_copy():
    training = points(60, 0) + np.float32(1e4)
    distances, _ = nearest_rows(torch.from_numpy(training), training)
    np.testing.assert_array_equal(distances, 0)


def test_kept_features_know_their_images():
    collector = FeatureCollector(30)
    collector.add(torch.arange(30.0)[:, None])
    found = collector.result()
    np.testing.assert_array_equal(found.kept[:, 0], kept_images(found))

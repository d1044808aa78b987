"""The metrics on feature sets whose distance is known in closed form or computed in another way."""

import dataclasses
import json

import numpy as np
import pytest
import scipy.linalg
import torch
from torch_fidelity.metric_isc import isc_features_to_metric

from metrics import scores as metrics
from metrics.features import FeatureCollector
from metrics.report import write_scores
from metrics.scores import METRICS, class_accuracy, compare, frechet_distance


def feature_set(features, batch_size=1000, logits=None, labels=None):
    collector = FeatureCollector(len(features))
    for start in range(0, len(features), batch_size):
        part = slice(start, start + batch_size)
        batch = torch.from_numpy(features[part])
        collector.add(batch, None if logits is None else torch.from_numpy(logits[part]))
    return dataclasses.replace(collector.result(), labels=labels)


def gaussian(count, width, seed, scale=1.0, shift=0.0):
    """Features whose sample mean is exactly `shift` and sample covariance exactly scale**2 * I."""
    values = np.random.default_rng(seed).normal(size=(count, width))
    values -= values.mean(0)
    values = values @ np.linalg.inv(np.linalg.cholesky(np.cov(values, rowvar=False))).T
    return scale * values + shift


@pytest.mark.parametrize("count", [100, 20])  # more and fewer images than features
def test_identical_sets_are_at_no_distance(count):
    features = np.random.default_rng(0).gamma(2, size=(count, 64))
    scores = compare(feature_set(features), feature_set(features))
    assert scores["fid"] == pytest.approx(0, abs=1e-9)
    assert scores["precision"] == scores["recall"] == 1


def test_frechet_distance_of_gaussians_is_the_closed_form():
    a = feature_set(gaussian(300, 16, seed=0))
    b = feature_set(gaussian(400, 16, seed=1, scale=3, shift=0.5))
    assert frechet_distance(a, b)["fid"] == pytest.approx(16 * (0.5**2 + (3 - 1) ** 2), abs=1e-9)


def test_frechet_distance_agrees_with_the_matrix_square_root():
    random = np.random.default_rng(0)
    a, b = (random.normal(size=(500, 24)) @ random.normal(size=(24, 24)) for _ in range(2))
    root = scipy.linalg.sqrtm(np.cov(a, rowvar=False) @ np.cov(b, rowvar=False)).real
    expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(
        np.cov(a, rowvar=False) + np.cov(b, rowvar=False) - 2 * root
    )
    found = frechet_distance(feature_set(a), feature_set(b))["fid"]
    assert found == pytest.approx(expected, rel=1e-9)


def test_images_sorted_by_class_are_as_good_as_shuffled_ones():
    random = np.random.default_rng(0)
    centers = 20 * random.normal(size=(20, 8))
    real, made = (centers.repeat(n, 0) + random.normal(size=(20 * n, 8)) for n in (100, 10))
    few, many = feature_set(made), feature_set(real)
    assert min(metrics.precision_recall(few, many).values()) > 0.6
    as_many = dataclasses.replace(many, kept=many.kept[: len(made)])
    for sides, alike in (((few, many), (few, as_many)), ((many, few), (as_many, few))):
        assert metrics.precision_recall(*sides) == metrics.precision_recall(*alike)


def test_statistics_do_not_depend_on_the_batches():
    # A mean of 1e6 leaves no digits to formulas that subtract large squares.
    features = np.random.default_rng(0).normal(1e6, 1, size=(101, 8))
    whole, parts = feature_set(features), feature_set(features, batch_size=7)
    np.testing.assert_allclose(parts.covariance, np.cov(features, rowvar=False), rtol=1e-8)
    np.testing.assert_allclose(parts.covariance, whole.covariance, rtol=1e-8)
    np.testing.assert_allclose(parts.mean, features.mean(0), rtol=1e-14)
    assert parts.kept.equal(whole.kept)


def test_kernel_distance_is_the_unbiased_mmd(monkeypatch):
    monkeypatch.setattr(metrics, "KID_SUBSETS", 1)
    random = np.random.default_rng(0)
    a, b = (random.normal(m, 1, size=(40, 6)).astype(np.float32) for m in (0, 0.7))

    def kernel(x, y):
        return (x.astype(np.float64) @ y.T / 6 + 1) ** 3

    within = [(kernel(x, x).sum() - np.trace(kernel(x, x))) / (40 * 39) for x in (a, b)]
    expected = sum(within) - 2 * kernel(a, b).mean()
    found = metrics.kernel_distance(feature_set(a), feature_set(b))["kid"]
    assert found == pytest.approx(expected, rel=1e-9)


def test_kernel_distance_averages_over_subsets(monkeypatch):
    monkeypatch.setattr(metrics, "KID_SUBSET_SIZE", 50)
    random = np.random.default_rng(0)
    a, b, c = (feature_set(random.normal(m, 1, size=(300, 6))) for m in (0, 0, 0.7))
    same, other = metrics.kernel_distance(a, b), metrics.kernel_distance(a, c)
    assert abs(same["kid"]) < same["kid_std"]
    assert other["kid"] > 5 * same["kid_std"]


def test_scores_know_their_limits():
    random = np.random.default_rng(0)
    few, more, many = (feature_set(random.normal(size=(n, 40))) for n in (30, 60, 1200))
    assert metrics.kernel_distance(few, few).keys() == {"kid"}  # all subsets are the whole set
    assert metrics.kernel_distance(few, more).keys() == {"kid", "kid_std"}
    assert [limit.split(":")[0] for limit in metrics.limits(many, few)] == [
        "fid",
        "precision, recall and kid",
    ]
    assert metrics.limits(many, few)[1].endswith("inception_score is too low")
    assert len(metrics.limits(more, many)) == 1
    assert metrics.limits(many, many) == []


def test_the_settings_of_each_score_are_described():
    few, many = (feature_set(np.random.default_rng(0).normal(size=(n, 4))) for n in (30, 1200))
    for generated, real, subset, side in ((60, few, 30, 30), (20, many, 20, 20),
                                          (2000, many, 1000, 1200)):  # fmt: skip
        assert metrics.settings(generated, real) == {
            "kid": f"cubic kernel, 100 subsets of {subset}",
            "precision_recall": f"3 neighbours, {side} images a side",
            "inception_score": "10 parts",
        }
    only_statistics = dataclasses.replace(few, kept=None)
    assert metrics.settings(60, only_statistics) == {"inception_score": "10 parts"}


def test_precision_and_recall_agree_with_a_slow_count():
    random = np.random.default_rng(0)
    fake, real = random.normal(size=(60, 4)), random.normal(0.5, 1.5, size=(60, 4))

    def covered(points, centers):
        hits = 0
        for point in points:
            for center in centers:
                radius = sorted(np.linalg.norm(centers - center, axis=1))[3]  # 0 is itself
                if np.linalg.norm(point - center) <= radius:
                    hits += 1
                    break
        return hits / len(points)

    scores = metrics.precision_recall(feature_set(fake), feature_set(real))
    assert scores["precision"] == pytest.approx(covered(fake, real))
    assert scores["recall"] == pytest.approx(covered(real, fake))
    assert 0 < scores["recall"] < scores["precision"]


def test_modes_left_out_cost_recall_alone():
    random = np.random.default_rng(0)
    real = np.concatenate([random.normal(c, 0.1, size=(50, 3)) for c in (0, 10)])
    fake = random.normal(0, 0.1, size=(100, 3))
    scores = compare(feature_set(fake), feature_set(real))
    assert scores["precision"] > 0.8
    assert scores["recall"] < 0.6


def test_inception_score_counts_sure_and_even_classes():
    sure, unsure = 50.0 * np.eye(4)[np.arange(1000) % 4], np.zeros((1000, 4))
    for logits, expected in ((sure, 4), (unsure, 1)):
        images = feature_set(logits, logits=logits)
        score = metrics.inception_score(images, images)["inception_score"]
        assert score == pytest.approx(expected, rel=0.02)


def test_inception_score_is_that_of_torch_fidelity():
    logits = np.random.default_rng(0).normal(size=(103, 4))
    expected = isc_features_to_metric(torch.from_numpy(logits), 10, shuffle=True, rng_seed=2020)
    images = feature_set(logits, logits=logits)
    found = list(metrics.inception_score(images, images).values())
    assert found == pytest.approx(list(expected.values()), rel=1e-12)


def test_inception_score_needs_logits():
    features = np.random.default_rng(0).normal(size=(20, 2))
    assert "inception_score" in compare(
        feature_set(features, logits=features), feature_set(features)
    )
    assert "inception_score" not in compare(feature_set(features), feature_set(features))


def test_kept_features_are_drawn_from_all(monkeypatch):
    monkeypatch.setattr("metrics.features.KEPT", 20)
    kept = feature_set(np.arange(1000.0)[:, None], batch_size=64).kept[:, 0]
    assert len(set(kept.tolist())) == 20
    assert kept.min() < 250
    assert kept.max() > 750


def test_class_accuracy_leaves_out_unknown_labels():
    seen = np.eye(3)[[0, 1, 2, 0]]

    def found(labels, logits=seen):
        images = feature_set(seen, logits=logits, labels=labels)
        return class_accuracy(images, images)

    assert found(np.array([0, 2, 2, 0])) == {"class_accuracy": 0.75}
    assert found(np.array([0, -1, 3, 3])) == {"class_accuracy": 1}
    assert found(np.array([-1] * 4)) == found(None) == found(np.zeros(4, int), None) == {}


def test_unequal_classes_have_a_balanced_accuracy_too():
    # Seven of ten images of class 0 are right, none of the two of class 1, and all four of class 2.
    seen = np.array([0] * 7 + [1] * 3 + [0, 0] + [2] * 4)
    logits, labels = np.eye(3)[seen], np.array([0] * 10 + [1, 1] + [2] * 4)
    images = feature_set(logits, logits=logits, labels=labels)
    expected = {"class_accuracy": 11 / 16, "class_accuracy_balanced": 1.7 / 3}
    assert class_accuracy(images, images) == pytest.approx(expected)


def test_a_row_of_the_table_is_all_that_a_new_metric_needs(monkeypatch):
    shift = {"shift": lambda generated, real: {"shift": float((generated.mean - real.mean).norm())}}
    monkeypatch.setattr(metrics, "METRICS", METRICS | shift)
    scores = compare(feature_set(gaussian(20, 4, 0, shift=1.0)), feature_set(gaussian(25, 4, 1)))
    assert list(scores) == ["fid", "kid", "kid_std", "precision", "recall", "shift"]
    assert scores["shift"] == pytest.approx(2)


def test_a_score_that_is_not_finite_is_null_in_the_file_and_said(tmp_path, caplog):
    protocol = {"basis": "none", "images": 50_000, "extractor": {"features": 2}}
    write_scores(tmp_path / "a.json", {"fid": float("inf"), "recall": 0.5, "lpips": None}, protocol)
    found = json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail)
    assert found["scores"] == {"fid": None, "recall": 0.5, "lpips": None}
    assert "fid: not a finite number" in caplog.text

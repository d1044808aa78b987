"""Every protocol against a twin of its program's formulas, written in numpy from their text."""

import numpy as np
import pytest
import scipy.linalg
import torch
from PIL import Image
from torch import nn

from metrics import adm, better
from metrics.extractor import CleanInception
from metrics.features import FeatureCollector
from metrics.protocols import PROTOCOLS
from metrics.scores import compare
from utils.pictures import ROUNDINGS, to_uint8


def features_of(values, logits=None, spatial=None, batch=37, keeps_all=True):
    collector = FeatureCollector(len(values), keeps_all)
    arrays = [None if x is None else torch.from_numpy(x) for x in (values, logits, spatial)]
    for start in range(0, len(values), batch):
        collector.add(*(None if x is None else x[start : start + batch] for x in arrays))
    return collector.result()


def frechet(a, b):
    """The formula of evaluator.py, calculate_metrics.py and clean-fid: a square root by scipy."""
    mean, covariance = zip(*((x.mean(0), np.cov(x, rowvar=False)) for x in (a, b)), strict=True)
    root = scipy.linalg.sqrtm(covariance[0] @ covariance[1]).real
    shift = mean[0] - mean[1]
    return shift @ shift + np.trace(covariance[0]) + np.trace(covariance[1]) - 2 * np.trace(root)


def distances(u, v, dtype):
    """Pairwise distances of evaluator.py; every step has the dtype."""

    def cast(x):  # with whole numbers below 2^24, float32 has no rounding of its own
        return x.astype(dtype).astype(np.float32)

    u, v = cast(u), cast(v)
    squares = [cast(cast(x * x).sum(1)) for x in (u, v)]
    return np.maximum(cast(cast(squares[0][:, None] - 2 * cast(u @ v.T)) + squares[1]), 0)


def precision_recall(real, fake, dtype):
    """All pairs at once; radii are the distances at index 3 of each sorted row."""
    radii = [np.sort(distances(x, x, dtype), 1)[:, 3] for x in (real, fake)]
    across = distances(real, fake, dtype)
    precision = (across <= radii[0][:, None]).any(0).mean()
    recall = (across <= radii[1]).any(1).mean()
    return precision, recall


def inception_score(logits, part):
    """Softmax and runs in file order, in float32."""
    scores = []
    logits = logits.astype(np.float32)
    share = np.exp(logits - logits.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    for start in range(0, len(share), part):
        run = share[start : start + part]
        kl = run * (np.log(run) - np.log(run.mean(0, keepdims=True)))
        scores.append(np.exp(kl.sum(1).mean()))
    return np.mean(scores)


@pytest.fixture
def small_blocks(monkeypatch):
    """Several blocks and parts, also of uneven length."""
    monkeypatch.setattr(adm, "ROWS", 13)
    monkeypatch.setattr(adm, "COLUMNS", 29)
    monkeypatch.setattr(adm, "PART", 50)


def test_adm(small_blocks):
    random = np.random.default_rng(0)
    # Whole numbers: each sum is exact in float32, in any order, and float16 rounds it.
    real = random.integers(-40, 40, (90, 6)).astype(np.float32)
    fake = random.integers(-30, 45, (230, 6)).astype(np.float32)
    logits = random.normal(size=(230, 10)).astype(np.float32) * 3
    maps = [random.normal(size=(n, 4)).astype(np.float32) for n in (90, 230)]
    found = compare(
        features_of(fake, logits, maps[1]),
        features_of(real, None, maps[0]),
        PROTOCOLS["adm"].metrics,
    )
    expected = {
        "fid": frechet(real, fake),
        "sfid": frechet(*maps),
        "inception_score": inception_score(logits, 50),
    }
    for ending, dtype in (("", np.float32), ("_float16", np.float16)):
        both = precision_recall(real, fake, dtype)
        expected |= {f"precision{ending}": both[0], f"recall{ending}": both[1]}
    assert found == pytest.approx(expected, rel=1e-6)
    assert 0 < found["recall"] < 1
    assert 0 < found["precision"] < 1


def test_rounding_to_float16_matters_and_falls_back_where_it_overflows():
    u = torch.tensor([[300.0, 1.0], [0.0, 0.0]])
    assert adm.squared_distances(u, u, True).equal(adm.squared_distances(u, u, False))  # 300^2
    v = torch.tensor([[201.0, 0.3]])
    half, full = (adm.squared_distances(v, u[1:], is_half) for is_half in (True, False))
    assert half.item() == 40416.0  # 201^2 is 40401, and float16 has steps of 32 there
    assert full.item() == pytest.approx(40401.09, abs=0.01)


def test_the_inception_score_of_adm_depends_on_the_order(small_blocks):
    classes = np.arange(200) % 10
    in_turn, in_classes = (
        adm.inception_score(features_of(x, x), features_of(x))["inception_score"]
        for x in (20 * np.eye(10)[classes], 20 * np.eye(10)[np.sort(classes)])
    )
    assert in_turn == pytest.approx(10, rel=1e-3)
    assert in_classes < 4


def test_edm2_accumulates_the_same_statistics():
    random = np.random.default_rng(0)
    values = random.gamma(2, size=(300, 8)).astype(np.float32)
    cumulated = values.astype(np.float64)
    mean = cumulated.sum(0) / 300
    covariance = (cumulated.T @ cumulated - np.outer(mean, mean) * 300) / 299
    found = features_of(values)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(found.covariance, covariance, rtol=1e-9)
    other = random.normal(size=(200, 8)).astype(np.float32)
    scores = compare(found, features_of(other), PROTOCOLS["edm2"].metrics)
    assert scores == {"fid": pytest.approx(frechet(values, other), rel=1e-6)}


def test_clean_counts_the_kid_of_clean_fid(monkeypatch):
    monkeypatch.setattr("metrics.scores.KID_SUBSET_SIZE", 30)
    monkeypatch.setattr("metrics.features.KEPT", 35)
    random = np.random.default_rng(0)
    fake, real = random.normal(0.3, 1, size=(60, 5)), random.normal(size=(50, 5))
    sides = [features_of(x) for x in (fake, real)]
    assert [len(side.kept) for side in sides] == [60, 50]  # all of them
    found = compare(*sides, PROTOCOLS["clean"].metrics)

    chosen = np.random.RandomState(2020)
    total, m = 0, 30
    a, b = (side.kept.numpy() for side in sides)
    for _ in range(100):
        y = a[chosen.choice(60, m, replace=False)]
        x = b[chosen.choice(50, m, replace=False)]
        within = (x @ x.T / 5 + 1) ** 3 + (y @ y.T / 5 + 1) ** 3
        across = (x @ y.T / 5 + 1) ** 3
        total += (within.sum() - np.trace(within)) / (m - 1) - across.sum() * 2 / m
    assert found["kid"] == pytest.approx(total / 100 / m, rel=1e-6)
    assert found["fid"] == pytest.approx(frechet(fake, real), rel=1e-6)


class Pixels(nn.Module):
    """A network of Inception's interface whose features are the resized pixels themselves."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Identity(), nn.AvgPool2d(23)  # 299 is 13 x 23
        self.fc = nn.Linear(3 * 13 * 13, 2)


@pytest.mark.parametrize("size", [(32, 32), (400, 500)])
def test_clean_resizes_as_clean_fid_does(size):
    images = np.random.default_rng(0).choice(np.array([0, 255], np.uint8), (2, *size, 3))
    net = Pixels().requires_grad_(False)
    features, logits = CleanInception(net)(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    for image, found in zip(images, features, strict=True):
        planes = [
            np.asarray(
                Image.fromarray(image[:, :, c].astype(np.float32)).resize((299, 299), Image.BICUBIC)
            )
            for c in range(3)
        ]
        assert max(plane.max() for plane in planes) > 255  # not clipped
        normal = (np.stack(planes) - 128) / 128
        pooled = normal.reshape(3, 13, 23, 13, 23).mean((2, 4))
        np.testing.assert_allclose(found.reshape(3, 13, 13), pooled, atol=1e-5)
    torch.testing.assert_close(logits, features @ net.fc.weight.T)


def test_pixels_are_rounded_as_each_program_does():
    x = torch.linspace(-1.1, 1.1, 997).reshape(1, 1, 1, -1)
    v = x.numpy().ravel()
    expected = {
        "nearest": np.rint((np.clip(v, -1, 1) + 1) * np.float32(127.5)),
        "down": np.clip((v + 1) * np.float32(127.5), 0, 255).astype(np.uint8),
        "half up": np.clip(v * np.float32(127.5) + 128, 0, 255).astype(np.uint8),
    }
    assert expected.keys() == ROUNDINGS.keys()
    for rounding, values in expected.items():
        found = to_uint8(x, rounding).ravel()
        # Where a product is a whole number up to rounding, either side is right.
        assert (found == values).mean() > 0.99
        assert np.abs(found - values.astype(float)).max() <= 1
    assert to_uint8(x).ravel().tolist() == expected["nearest"].tolist()


def test_the_command_line_knows_all_protocols():
    assert tuple(PROTOCOLS) == better.PROTOCOL_NAMES
    assert {row.rounding for row in PROTOCOLS.values()} <= ROUNDINGS.keys()

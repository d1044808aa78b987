"""The bound of the likelihood, against toys whose bound can be counted, and as a user runs it."""

import csv
import itertools
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from data.token_set import DeviceTokens, TokenSet
from MaskGIT import main
from metrics import likelihood_bound
from metrics.likelihood_bound import (
    Bounder,
    class_masks,
    image_interval,
    mask_interval,
    pair_masks,
    typicality,
)
from models.maskgit.config import TransformerConfig

L, K = 3, 2
ALL_IMAGES = np.array([*itertools.product(range(K), repeat=L)])  # (8, 3)


class Toy(nn.Module):
    """Predictions from a table: `predict(visible tokens by position, position)` -> K chances."""

    def __init__(self, predict):
        super().__init__()
        self.config = TransformerConfig(K, 1, L, embed_dim=4, hidden_dim=4, heads=1)
        self.predict, self.anchor = predict, nn.Parameter(torch.zeros(()))

    def forward(self, tokens, labels, at=None):
        rows = []
        for row in tokens.tolist():
            visible = {i: token for i, token in enumerate(row) if token < K}
            rows.append([self.predict(visible, i) for i in range(L)])
        logits = torch.from_numpy(np.array(rows)).log().float()
        return logits if at is None else logits.reshape(-1, K)[at]


def conditionals_of(joint):
    """Exact predictions of a joint distribution (K, K, K)."""

    def predict(visible, position):
        at = tuple(visible.get(i, slice(None)) for i in range(L))
        left = [i for i in range(L) if i not in visible]
        if position in visible:
            return np.full(K, 1 / K)
        rest = tuple(n for n, i in enumerate(left) if i != position)
        chances = joint[at].sum(axis=rest)
        return chances / chances.sum()

    return predict


def of_any_kind(visible, position):
    """Predictions that no joint distribution has: orders disagree."""
    seen = sum((i + 1) * (token + 1) for i, token in visible.items())
    chance = 0.1 + 0.8 * ((seen * 7 + position * 5) % 11) / 11
    return np.array([chance, 1 - chance])


def bound_by_orders(predict, image):
    """The mean over all orders of -log p, token by token, in nats per token."""
    losses = []
    for order in itertools.permutations(range(L)):
        visible = {}
        for position in order:
            losses.append(-np.log(predict(visible, position)[image[position]]))
            visible[position] = image[position]
    return np.sum(losses) / 6 / L


def bounder(predict, num_pairs=2, seed=0):
    tokens = TokenSet(ALL_IMAGES[None].astype(np.uint16), np.zeros(len(ALL_IMAGES), np.int64))
    on_cpu = DeviceTokens(tokens, torch.device("cpu"))
    return Bounder(Toy(predict), on_cpu, num_pairs, seed, torch.float32, batch_size=3)


def nats_of(bounder):
    return bounder.nats(np.arange(8), np.zeros(8, np.int64), "toy")


@pytest.fixture
def all_masks(monkeypatch):
    """Every pair of masks once, in place of random ones: the mean is then exact."""
    pairs = [np.arange(L) == hidden for hidden in range(L)]
    monkeypatch.setattr(
        likelihood_bound,
        "pair_masks",
        lambda images, *_: [np.tile(p, (len(images), 1)) for p in pairs],
    )


JOINT = np.random.default_rng(0).dirichlet(np.ones(K**L)).reshape((K,) * L)


@pytest.mark.usefixtures("all_masks")
def test_it_is_the_mean_over_all_orders():
    expected = [bound_by_orders(of_any_kind, image) for image in ALL_IMAGES]
    np.testing.assert_allclose(nats_of(bounder(of_any_kind, 3)).mean(1), expected, rtol=1e-5)


@pytest.mark.usefixtures("all_masks")
def test_it_is_tight_if_the_predictions_are_those_of_one_distribution():
    found = nats_of(bounder(conditionals_of(JOINT), 3)).mean(1)
    np.testing.assert_allclose(found, -np.log(JOINT.flatten()) / L, rtol=1e-5)


def test_a_factorized_model_is_measured_exactly_by_any_mask():
    chances = np.array([[0.2, 0.8], [0.5, 0.5], [0.9, 0.1]])
    found = nats_of(bounder(lambda visible, position: chances[position]))
    expected = [-np.log([chances[i][t] for i, t in enumerate(x)]).mean() for x in ALL_IMAGES]
    np.testing.assert_allclose(found, np.repeat(expected, 2).reshape(-1, 2), rtol=1e-5)


def test_random_masks_give_no_other_mean():
    found = nats_of(bounder(of_any_kind, num_pairs=400))
    expected = np.array([bound_by_orders(of_any_kind, image) for image in ALL_IMAGES])
    error = found.std(1, ddof=1) / 20
    assert (np.abs(found.mean(1) - expected) < 5 * error + 1e-6).all()
    assert abs(found.mean() - expected.mean()) < 2.5 * mask_interval(found)


def test_the_interval_holds_the_mean_of_other_images_of_the_same_classes():
    random, labels = np.random.default_rng(0), np.arange(60) % 3
    truth = np.array([1.0, 5.0, 9.0])[labels].mean()
    hits = np.zeros(2)
    for _ in range(400):
        nats = np.array([1.0, 5.0, 9.0])[labels, None] + random.normal(size=(60, 2))
        half = image_interval(nats, labels)
        hits += abs(nats.mean() - truth) < np.array([half, mask_interval(nats)])
    assert (np.abs(hits / 400 - 0.945) < 0.035).all()
    assert half < 0.5  # the distance of the classes is in no interval
    one = image_interval(nats, np.zeros(60, int))
    assert one == pytest.approx(1.96 * nats.mean(1).std(ddof=1) / 60**0.5)


def test_the_masks_depend_on_seed_image_and_pair_alone():
    def masks(images, seed=0):
        return np.stack([*pair_masks(np.array(images), 2, 64, seed)])

    both = masks([3, 8])
    np.testing.assert_array_equal(both[:, 1:], masks([8]))
    assert (both != masks([3, 8], seed=1)).any()
    assert (both[0] != both[1]).any()
    assert (both[:, 0] != both[:, 1]).any()


def test_the_numbers_of_hidden_tokens_are_spread_evenly():
    counts = np.stack([*pair_masks(np.arange(630), 2, 64, 0)]).sum(2)  # (2, 630)
    assert counts.min() == 1
    assert counts.max() == 63
    for of_pair in counts:
        often = np.bincount(of_pair, minlength=64)[1:]
        assert often.min() >= 8  # 10 each; random ones would leave some out
        assert often.max() <= 12
    assert np.abs(counts[0] - counts[1]).min() >= 31  # over the pairs of an image too


def test_a_batch_changes_nothing():
    whole = bounder(of_any_kind)
    np.testing.assert_array_equal(nats_of(whole), nats_of(replace(whole, batch_size=8)))


def test_classification_takes_the_class_under_which_the_image_is_likeliest():
    class Labeled(Toy):
        def forward(self, tokens, labels, at=None):
            sure = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).log()  # class 0 likes 0, class 1 likes 1
            logits = sure[labels][:, None].expand(-1, L, -1)
            return logits if at is None else logits.reshape(-1, K)[at]

    toy = replace(bounder(of_any_kind), network=Labeled(of_any_kind))
    majority = ALL_IMAGES.sum(1) > 1
    np.testing.assert_array_equal(toy.classify(np.arange(8), 2, 16), majority.astype(int))


def test_the_masks_of_classification_hide_from_half_of_the_tokens_to_all():
    masks = np.stack([*class_masks(np.arange(3), 4, 16, 0)])
    assert masks.sum(2).tolist() == [[15] * 3, [13] * 3, [11] * 3, [9] * 3]


def test_typicality_is_in_standard_deviations_of_the_class():
    nats, labels = np.array([1.0, 3.0, 10.0, 14.0, 7.0]), np.array([0, 0, 1, 1, 2])
    np.testing.assert_allclose(typicality(nats, labels), [-1, 1, -1, 1, 0])


def test_a_command(run, trained, tmp_path):
    command = f"--evaluate likelihood --checkpoint {trained}/MaskGIT_mnist.pt --precision fp32"
    shown = run(f"{command} --classify 6 --batch_size 7 --cfg_w 2 --protocol adm")
    assert "no effect here: --cfg_w, --no_wandb, --protocol\n" in shown
    assert re.search("nats_per_token .* tokens of [0-9a-f]{16}, not pixels", shown)
    path = tmp_path / "mnist" / "evaluation_likelihood.json"
    result = json.loads(path.read_text())
    scores = result["scores"]
    assert 0 < scores["nats_per_token"] < np.log(16) + 1
    assert scores["bits_per_token"] == pytest.approx(scores["nats_per_token"] / np.log(2))
    assert scores["nats_per_image"] == pytest.approx(scores["nats_per_token"] * 64)
    assert 0 < scores["interval_of_masks"] < scores["nats_per_token"]
    assert 0 <= scores["likelihood_accuracy"] <= 1
    assert result["protocol"]["images"] == 20
    with path.with_suffix(".csv").open() as file:
        rows = [*csv.DictReader(file)]
    assert [int(row["label"]) for row in rows] == [i % 10 for i in range(20)]
    mean = np.mean([float(row["nats_per_token"]) for row in rows])
    assert mean == pytest.approx(scores["nats_per_token"])
    with Image.open(path.with_suffix(".png")) as picture:
        assert picture.width > 10 * 32
    # Some of the images, and the other split.
    run(f"{command} --num_samples 5 --reference train")
    with path.with_suffix(".csv").open() as file:
        assert [int(row["image"]) for row in csv.DictReader(file)] == [0, 9, 19, 28, 38]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ("--images x.npz", "--evaluate likelihood measures the dataset's images; leave --images"),
        ("--classify 21", "--classify 21: only 20 images are measured"),
        ("--reference x.npz", "--reference x.npz: choose from train, validation"),
        ("--num_samples 1", "too few images to measure a likelihood: 1; at least 2"),
    ],
)
def test_mistakes(trained, data_dir, tmp_path, refusal, arguments, error):
    common = f"--checkpoint {trained}/MaskGIT_mnist.pt --data_dir {data_dir} --output_dir"
    command = f"--evaluate likelihood {common} {tmp_path} {arguments}".split()
    assert error in refusal(lambda: main(command))

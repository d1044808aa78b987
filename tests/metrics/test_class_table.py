"""The scores of each class alone."""

import csv

import numpy as np
import pytest
import torch

from metrics.class_table import ClassRow, class_rows, draw_rows, write_rows
from metrics.features import FeatureCollector
from metrics.scores import frechet_distance
from utils.pictures import is_intact_png


def feature_set(features, logits=None, labels=None):
    collector = FeatureCollector(len(features))
    collector.add(torch.from_numpy(features), None if logits is None else torch.from_numpy(logits))
    found = collector.result()
    return found if labels is None else replace_labels(found, labels)


def replace_labels(found, labels):
    return type(found)(**{**vars(found), "labels": labels})


def test_every_class_is_scored_with_its_own_images():
    random = np.random.default_rng(0)
    labels, real_labels = np.arange(90) % 3, np.arange(120) % 3
    labels[labels == 2] = 0  # no sample has class 2
    made = random.normal(size=(90, 4)) + labels[:, None]
    real = random.normal(size=(120, 4))
    seen = np.where(np.arange(90) % 2, labels, 1)  # class 1 is always recognized
    images = feature_set(made, np.eye(3)[seen], labels)
    rows = class_rows(images, labels, feature_set(real), real_labels, ["a", "b", "c"])
    assert [(row.samples, row.real) for row in rows] == [(60, 40), (30, 40), (0, 40)]
    for number, row in enumerate(rows[:2]):
        sides = feature_set(made[labels == number]), feature_set(real[real_labels == number])
        assert row.fid == pytest.approx(frechet_distance(*sides)["fid"], rel=1e-9)
    assert rows[1].fid > rows[0].fid
    assert rows[1].accuracy == 1
    assert rows[0].accuracy == pytest.approx((seen == labels)[labels == 0].mean())
    assert (rows[2].fid, rows[2].accuracy) == (None, None)


def test_the_table_and_the_picture(tmp_path):
    rows = [ClassRow(f"class {i}", 30, 40, float(i) or None, 0.9) for i in range(40)]
    write_rows(tmp_path / "classes.csv", rows)
    with (tmp_path / "classes.csv").open() as file:
        found = [*csv.DictReader(file)]
    assert found[0] == {
        "name": "class 0", "samples": "30", "real": "40", "fid": "", "accuracy": "0.9",
    }  # fmt: skip
    assert len(found) == 40
    pytest.importorskip("matplotlib")
    draw_rows(tmp_path / "classes.png", rows)
    assert is_intact_png(tmp_path / "classes.png")


def test_a_score_that_is_not_measured_does_not_look_like_0(tmp_path):
    pytest.importorskip("matplotlib")
    drawn = []
    for fid in (None, 0.0):
        draw_rows(tmp_path / "classes.png", [ClassRow("class", 30, 40, fid, 0.9)])
        drawn.append((tmp_path / "classes.png").read_bytes())
    assert drawn[0] != drawn[1]

"""The curves of a training: every number that a stage records is drawn or left out on purpose."""

import math
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tiny_stages import make_stage, make_vqgan_stage

from training.charts import PANELS, CurvePicture, Panel, draw_curves, draw_run
from training.config import LoopConfig
from training.loop import Loop
from training.run_folder import RunFolder
from training.stage import Position
from training.tracking import MetricsFile, Trackers, read_metrics
from utils.errors import UserError

NOT_DRAWN = {
    *("step", "train/skipped", "train/gradient_norm"),
    *("train/codebook", "train/adaptive_weight"),
    *("train/epoch", "train/images", "train/progress"),  # how far it is
    "train/loss",  # of stage 1: a sum of the others, whose terms change while it trains
}


@pytest.fixture(autouse=True)
def _curves(monkeypatch):
    """Trainings draw their curves, which conftest.py turns off."""
    monkeypatch.setattr("training.charts.draw_run", draw_run)


def rows_of(*losses, **more):
    """Rows as a run of stage 2 writes them, with an epoch of 10 steps for each loss."""
    for epoch, loss in enumerate(losses, start=1):
        step = 10 * epoch
        yield {"step": step, "train/loss": loss + 0.5, "train/lr": 0.1, **more}
        yield {"step": step, "val/loss": loss, "val/accuracy": 0.1 * epoch}


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture).astype(int)


def has_color(path, color):
    """Whether some pixel has a color, given as #rrggbb."""
    wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return (abs(pixels(path) - wanted).max(-1) < 8).any()


@pytest.mark.parametrize("make", [make_stage, make_vqgan_stage])
def test_every_number_of_a_real_stage_is_drawn(tmp_path, make):
    stage, run = make(), RunFolder(tmp_path, "toy")
    tracker = Trackers(
        MetricsFile(run.metrics(stage.name), 0),
        CurvePicture(run.curves(stage.name), run.metrics(stage.name), stage.name),
    )
    stage.preview = lambda path: None
    Loop(stage, LoopConfig(4, 8), run, tracker, Position()).train()
    tracker.close()
    recorded = {name for row in read_metrics(run.metrics(stage.name)) for name in row}
    drawn = {name for panel in PANELS[stage.name] for name in panel.lines}
    assert recorded - drawn - NOT_DRAWN == set()
    assert drawn - recorded <= {"train/perceptual", "samples/fid"}  # not there
    assert (
        run.curves(stage.name).name
        == {"maskgit": "curves.png", "vqgan": "curves_vqgan.png"}[stage.name]
    )
    assert pixels(run.curves(stage.name)).min() < 100


def test_the_picture_shows_what_is_in_the_rows(tmp_path):
    one, other = tmp_path / "one.png", tmp_path / "other.png"
    draw_curves(one, "maskgit", {"a": list(rows_of(3, 2, 1))})
    draw_curves(other, "maskgit", {"a": list(rows_of(3, 2, 1.5))})
    assert (pixels(one) != pixels(other)).any()
    draw_curves(other, "maskgit", {"a": list(rows_of(3, 2, 1))})
    assert (pixels(one) == pixels(other)).all()


def test_each_run_has_its_color_also_where_its_name_is_odd(tmp_path):
    path = tmp_path / "curves.png"
    runs = {name: list(rows_of(3, 2, 1 / 2**i)) for i, name in enumerate(["_a", "$\\b", "c" * 200])}
    draw_curves(path, "maskgit", runs)
    assert all(has_color(path, color) for color in ("#0072B2", "#D55E00", "#009E73"))
    assert not has_color(path, "#CC79A7")  # that of a fourth run


def test_many_runs_and_their_names_fit(tmp_path):
    few, many = tmp_path / "few.png", tmp_path / "many.png"
    draw_curves(few, "maskgit", {f"run {i}": list(rows_of(3, 2)) for i in range(2)})
    draw_curves(many, "maskgit", {f"run {i} {'x' * 40}": list(rows_of(3, 2)) for i in range(30)})
    assert pixels(many).shape[1] == pixels(few).shape[1]
    assert pixels(many).shape[0] > pixels(few).shape[0]  # the legend has more lines


@pytest.mark.parametrize("value", [math.nan, -math.inf, 1e308, -1.0, 1e-300])
def test_any_number_can_be_drawn(tmp_path, monkeypatch, value):
    panels = (Panel("", {"val/loss": ""}), Panel("", {"val/loss": ""}, is_log=True))
    monkeypatch.setitem(PANELS, "maskgit", panels)
    rows = [{"step": 0, "val/loss": value}, {"step": 1, "val/loss": 1.0}]
    draw_curves(tmp_path / "curves.png", "maskgit", {"a": rows})
    draw_curves(tmp_path / "curves.png", "maskgit", {"a": rows[:1]})


def test_a_large_range_of_positive_numbers_is_logarithmic(tmp_path, monkeypatch):
    panel = Panel("", {"val/loss": ""})
    images = []
    for is_log in (False, True):
        monkeypatch.setitem(PANELS, "maskgit", (replace(panel, is_log=is_log),))
        for last in (1.5, 1000.0):
            rows = [{"step": step, "val/loss": last ** (step / 9)} for step in range(10)]
            draw_curves(tmp_path / "curves.png", "maskgit", {"a": rows})
            images.append(pixels(tmp_path / "curves.png"))
    small, large, small_log, large_log = images
    assert (small == small_log).all()
    assert (large != large_log).any()
    # A straight line: half of the way up where half of the steps are made.
    rows, columns = np.nonzero((abs(large_log - [0, 0x72, 0xB2]).max(-1) < 8)[:, :500])
    middle = rows[abs(columns - columns.min() - np.ptp(columns) / 2) < 2].mean()
    assert middle == pytest.approx((rows.min() + rows.max()) / 2, abs=3)


def test_rows_without_a_number_that_is_known_are_refused(tmp_path):
    with pytest.raises(UserError, match="a: no training metrics to draw"):
        draw_curves(tmp_path / "curves.png", "maskgit", {"a": [{"step": 1, "other": 1.0}]})


# --- While a run trains ---


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def record(tmp_path, clock, monkeypatch):
    """Record epochs of so many seconds in a tracker whose pictures take a second each."""
    drawn = []

    def slow(path, metrics, stage):
        clock.now += 1
        drawn.append(max(row["step"] for row in read_metrics(metrics)))

    monkeypatch.setattr("training.charts.draw_run", slow)
    metrics = MetricsFile(tmp_path / "m.jsonl", 0)
    tracker = Trackers(
        metrics, CurvePicture(tmp_path / "curves.png", metrics.path, "maskgit", clock)
    )

    def epochs(count, seconds):
        for step in range(1, count + 1):
            clock.now += seconds
            tracker.log({"train/loss": 1.0}, step)
            tracker.log({"val/loss": 1.0}, step)
        tracker.close()
        return drawn

    return epochs


def test_every_long_epoch_is_drawn(record):
    assert record(5, 60) == [1, 2, 3, 4, 5]


def test_short_epochs_are_drawn_from_time_to_time_and_the_last_at_the_end(record):
    drawn = record(100, 5)
    assert drawn[:2] == [1, 2]  # the first loads matplotlib: its time tells nothing
    assert drawn[-1] == 100
    assert 10 <= len(drawn) <= 12  # 2 percent of 500 seconds, the first and the last


def test_a_short_run_is_drawn_once(record):
    assert record(4, 1) == [4]


def test_numbers_of_a_step_alone_draw_nothing(tmp_path):
    metrics = MetricsFile(tmp_path / "m.jsonl", 0)
    picture = CurvePicture(tmp_path / "curves.png", metrics.path, "maskgit")
    tracker = Trackers(metrics, picture)
    tracker.log({"train/loss": 1.0}, 50)
    tracker.close()
    assert not picture.path.exists()


def test_a_picture_that_fails_is_one_line_and_stops_nothing(tmp_path, clock, caplog):
    path = tmp_path / "folder" / "curves.png"
    path.mkdir(parents=True)  # no file can take its place
    metrics = MetricsFile(tmp_path / "m.jsonl", 0)
    tracker = Trackers(metrics, CurvePicture(path, metrics.path, "maskgit", clock))
    for step in (1, 2, 3):
        clock.now += 100
        tracker.log({"val/loss": 1.0}, step)
    tracker.close()
    (said,) = caplog.messages
    assert said.startswith(f"cannot draw {path}: cannot write {path}")
    assert len(read_metrics(metrics.path)) == 3


def test_without_matplotlib_it_is_said_once_at_the_start(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    metrics = MetricsFile(tmp_path / "m.jsonl", 0)
    picture = CurvePicture(tmp_path / "curves.png", metrics.path, "maskgit")
    said = "matplotlib is missing: pip install -r requirements-plots.txt"
    assert caplog.messages == [f"cannot draw {picture.path}: {said}"]
    tracker = Trackers(metrics, picture)
    tracker.log({"val/loss": 1.0}, 1)
    tracker.close()
    assert len(caplog.messages) == 1
    assert not picture.path.exists()


def test_a_resumed_run_shows_its_rows_from_the_start(tmp_path):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    rows = list(rows_of(3, 2, 1))
    for folder, parts in ((whole, [rows]), (resumed, [rows[:3], rows[3:]])):
        folder.mkdir()
        for part in parts:
            metrics = MetricsFile(folder / "m.jsonl", part[0]["step"])
            tracker = Trackers(
                metrics, CurvePicture(folder / "curves.png", metrics.path, "maskgit")
            )
            for row in part:
                tracker.log({k: v for k, v in row.items() if k != "step"}, row["step"])
            tracker.close()
    draw_run(whole / "curves.png", resumed / "m.jsonl", "maskgit")
    again = pixels(whole / "curves.png")
    draw_run(whole / "curves.png", whole / "m.jsonl", "maskgit")
    assert (again == pixels(whole / "curves.png")).all()

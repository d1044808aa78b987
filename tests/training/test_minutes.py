"""Runs that must end in time, and runs that end early. The stage moves the clock."""

import logging
import math
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tiny_stages import CountingStage

from training.config import LoopConfig
from training.learning_rate import LearningRate
from training.loop import Loop
from training.pace import Pace
from training.run_folder import RunFolder
from training.stage import Position, load_state
from training.tracking import Trackers
from utils.checkpoint import load_checkpoint
from utils.processes import ALONE
from utils.progress import progress_bar

STEP, VALIDATION, PREVIEW = 2.0, 3.0, 5.0  # seconds
START = 5000.0  # what the clock shows when the run begins


class TimedStage(CountingStage):
    """Takes time; remembers the rates of the steps that count."""

    def __init__(self, slow_from=10**9, factor=100.0, validation=VALIDATION, saving=0.0, **more):
        super().__init__(**more)
        self.validation, self.saving = validation, saving
        self.learning_rate = LearningRate(1.0, 100, 1, self.steps_per_epoch)
        self.now, self.slow_from, self.factor, self.rates = START, slow_from, factor, {}
        self.made, self.shown = [], []  # also those that are only measured; the times of previews

    @property
    def spent(self):
        return self.now - START

    def clock(self):
        return self.now

    def train_step(self, step):
        self.now += STEP * (self.factor if step >= self.slow_from else 1)
        self.rates[step] = self.learning_rate(step)
        self.made.append(step)
        metrics = super().train_step(step)
        self.signal_step = None if step == self.signal_step else self.signal_step  # once
        return metrics

    def validate(self):
        self.now += self.validation
        return super().validate()

    def checkpoint(self, step):
        self.now += self.saving
        return super().checkpoint(step)

    def preview(self, path):
        self.now += PREVIEW
        self.shown.append(self.now)
        super().preview(path)


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path, "toy")


def train(
    stage, run, position=None, epochs=100, every=2, processes=ALONE, seconds=None, **settings
):
    """Train, within so many seconds if they are given."""
    position = position or Position()
    if seconds is not None:
        settings["ends_at"] = START + seconds
    config = LoopConfig(epochs, 8, every, **settings)
    Loop(stage, config, run, Trackers(), position, processes, clock=stage.clock).train()
    return position


class OneOfTwo:
    """A process of two; each is a thread."""

    size = 2

    def __init__(self, rank, barrier, values):
        self.is_main, self.rank, self.barrier, self.values = rank == 0, rank, barrier, values

    def exchange(self, value):
        self.values[self.rank] = value
        self.barrier.wait(60)
        values = list(self.values)
        self.barrier.wait(60)
        return values

    def wait(self):
        self.exchange(None)

    def from_main(self, work):
        return self.exchange(work() if self.is_main else None)[0]

    def largest(self, *numbers):
        return [max(both) for both in zip(*self.exchange(numbers), strict=True)]


@pytest.mark.parametrize(
    ("seconds", "measured", "left"), [(60, 3, "46 s"), (200, 4, "3 min"), (1000, 10, "16 min")]
)
def test_the_run_ends_in_time_and_uses_it(run, caplog, seconds, measured, left):
    """Measuring takes 3 % of the time, but at least 3 and at most 10 steps."""
    caplog.set_level(logging.INFO)
    stage = TimedStage()
    position = train(stage, run, seconds=seconds)
    assert 0.5 * seconds < stage.spent <= seconds
    assert stage.made == [*range(measured), *range(position.step)]
    steps = f"{position.step} steps ({position.step / 4:.3g} epochs)"
    assert f"maskgit: {steps} fit into {left}, at 2 s a step" in caplog.messages
    epochs = math.ceil(position.step / 4)
    assert f"epoch {epochs}/{epochs}  step {position.step}  loss" in caplog.text
    assert load_checkpoint(run.model, "maskgit") == {"step": position.step, "total": stage.total}
    assert run.preview("maskgit", position.step).is_file()
    assert stage.total == sum(range(position.step))  # the measured steps are taken back
    assert "a step takes" not in caplog.text  # at one speed the length stays


def test_the_time_for_a_long_save_is_kept(run):
    stage = TimedStage(saving=60.0)
    train(stage, run, seconds=500)
    assert 0.5 * 500 < stage.spent <= 500


def test_a_run_whose_steps_take_longer_than_its_end_has_no_step_too_many(run, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(TimedStage, "preview", CountingStage.preview)  # in no time
    stage = TimedStage(validation=0.1)
    position = train(stage, run, seconds=400)
    assert f"maskgit: {position.step} steps" in caplog.text


def test_the_rate_falls_to_the_end_of_this_run(run):
    stage = TimedStage()
    position = train(stage, run, seconds=400)
    assert max(stage.rates.values()) == pytest.approx(1)
    assert stage.rates[position.step - 1] < 0.01


@pytest.mark.parametrize("stop", [0, 5, 30])
def test_a_resumed_run_keeps_its_length(run, tmp_path, stop):
    straight = TimedStage()
    length = train(straight, RunFolder(tmp_path / "straight", "toy"), seconds=400).step
    stage = TimedStage(signal_step=stop, signal_number=signal.SIGTERM)
    with pytest.raises(SystemExit):
        train(stage, run, seconds=400)
    resumed = TimedStage()
    position = load_state(resumed, run)
    assert 0 < position.step < length
    # On another day, with more time and a faster clock.
    resumed.clock = lambda: 0.0
    assert train(resumed, run, position, seconds=9e9).step == length
    assert resumed.total == straight.total
    rates = {step: straight.rates[step] for step in range(position.length)}
    assert {**rates, **resumed.rates} == rates


def test_steps_that_become_slower_end_the_run_in_time(run, caplog):
    caplog.set_level(logging.INFO)
    stage = TimedStage(slow_from=20)
    position = train(stage, run, seconds=400)
    assert position.step < 30
    assert "the time is over" in caplog.text
    assert load_checkpoint(run.model, "maskgit")["step"] == position.step
    assert load_state(TimedStage(), run).length == position.step


@pytest.mark.parametrize("factor", [0.3, 0.8, 1.3, 3.0])
def test_another_speed_moves_the_end_and_the_fall_of_the_rate(run, factor, caplog):
    caplog.set_level(logging.INFO)
    stage = TimedStage(slow_from=40, factor=factor)
    position = train(stage, run, seconds=1000)
    *_, last = (line for line in caplog.messages if line.startswith("a step takes"))
    assert float(last.split()[3]) == pytest.approx(STEP * factor, rel=0.05)
    assert 850 < stage.spent <= 1000
    assert stage.rates[position.step - 1] < 0.01
    assert load_state(TimedStage(), run).length == position.step


def test_processes_whose_clocks_differ_choose_the_same_length(run):
    barrier, values = threading.Barrier(2), [None, None]
    stages = [TimedStage(slow_from=40, factor=factor) for factor in (1.3, 3.0)]

    def work(rank):
        processes = OneOfTwo(rank, barrier, values)
        return train(stages[rank], run, processes=processes, seconds=1000).step

    with ThreadPoolExecutor(2) as pool:
        lengths = list(pool.map(work, [0, 1]))
    assert lengths[0] == lengths[1]
    assert stages[0].rates == stages[1].rates
    assert stages[0].total == stages[1].total == sum(range(lengths[0]))
    assert stages[1].shown == []


@pytest.mark.parametrize(("factor", "least"), [(1.01, None), (1.04, 120)])
def test_the_end_stays_while_it_would_move_by_less_than_a_tenth_of_the_steps_left(
    run, caplog, factor, least
):
    """The steps lost to slower ones become a larger part of those that are left."""
    caplog.set_level(logging.INFO)
    train(TimedStage(slow_from=40, factor=factor), run, seconds=1000)
    moved = [line.startswith("a step takes") for line in caplog.messages]
    assert any(moved) == (least is not None)
    if least is not None:
        epochs = [line.startswith("epoch") for line in caplog.messages[: moved.index(True)]]
        assert 4 * sum(epochs) > least


def test_a_run_whose_images_became_more_chooses_its_length_again_from_where_it_is(run, caplog):
    train(TimedStage(), run, epochs=10)
    stage = TimedStage()
    position = load_state(stage, run)
    caplog.set_level(logging.INFO)
    train(stage, run, position, seconds=400)
    assert f"maskgit: {position.step - 40} steps" in caplog.text
    assert stage.made == [*range(40, 47), *range(40, position.step)]
    assert 0.5 * 400 < stage.spent <= 400
    assert stage.rates[position.step - 1] < 0.01


@pytest.mark.parametrize("seconds", [-100, 1])
def test_no_time_is_one_step(run, seconds):
    stage = TimedStage()
    assert train(stage, run, seconds=seconds).step == 1
    assert seconds > 0 or stage.spent == STEP + VALIDATION + PREVIEW  # nothing was measured


def test_a_pace_counts_validations_and_saves():
    pace = Pace(step=1.0, validation=10.0, save=20.0)
    assert pace.steps_in(950, steps_per_epoch=10, save_every_epochs=2) == 920 // 3
    assert pace.steps_in(0, 10, 2) == 1


def test_the_first_picture_and_the_lines_come_by_time(run, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    stage = TimedStage()
    stage.steps_per_epoch = 100
    train(stage, run, epochs=1, picture_at=START + 60)
    pictures = sorted(path.name for path in run.samples.iterdir())
    assert pictures == ["maskgit_step_0000031.png", "maskgit_step_0000100.png"]
    lines = [r.getMessage() for r in caplog.records if "ends at" in r.getMessage()]
    assert lines[0].startswith("step 10 of 100  ends at ")
    assert "in 3 min" in lines[0]
    assert [line.split()[1] for line in lines[1:]] == ["38", "69"]


def test_a_long_run_saves_every_ten_minutes(run):
    stage = TimedStage()
    train(stage, run, epochs=300, every=10**6)
    gaps = np.diff([START, *stage.shown])
    assert gaps.max() <= 600 + STEP + VALIDATION + PREVIEW
    assert gaps[:-1].min() > 600
    assert load_state(TimedStage(), run).step == 1200


def test_a_stopped_run_has_a_checkpoint_at_once(run):
    with pytest.raises(SystemExit):
        train(TimedStage(signal_step=1), run)
    assert load_checkpoint(run.model, "maskgit")["step"] == 2


LOSSES = dict(enumerate([5.0, 4.0, 4.5, 4.6, 4.7, 4.8], start=1))


@pytest.mark.parametrize(
    ("slow_from", "factor", "settings"),
    [
        (20, 100.0, {"seconds": 400}),  # the time is over
        (40, 1.3, {"seconds": 400}),  # the length is chosen again
        (0, 1.0, {"early_stop": 3}),
    ],
)
def test_the_bar_ends_where_the_run_does(run, monkeypatch, slow_from, factor, settings):
    bars = []

    def note(*arguments, **options):
        bars.append(progress_bar(*arguments, **options))
        return bars[-1]

    monkeypatch.setattr("training.loop.progress_bar", note)
    stage = TimedStage(slow_from, factor)
    stage.losses = LOSSES
    position = train(stage, run, epochs=6, **settings)
    assert bars[0].total == position.step


def test_the_best_weights_are_published_on_request(run):
    stage = TimedStage()
    stage.losses = LOSSES
    train(stage, run, epochs=6, publish="best")
    assert load_checkpoint(run.model, "maskgit")["step"] == 8
    assert load_checkpoint(run.best("maskgit"), "maskgit")["step"] == 8


def test_an_early_stop_ends_the_run_for_good(run, caplog):
    caplog.set_level(logging.INFO)
    stage = TimedStage()
    stage.losses = LOSSES
    assert train(stage, run, epochs=6, early_stop=3).step == 20
    assert "`early_stop` 3" in caplog.text
    assert load_checkpoint(run.model, "maskgit")["step"] == 20
    resumed = TimedStage()
    assert train(resumed, run, load_state(resumed, run), epochs=6).step == 20

"""The loop of both stages, with a stage whose arithmetic can be followed by hand."""

import errno
import io
import json
import logging
import math
import os
import signal
import sys
from contextlib import contextmanager, nullcontext

import pytest
import torch
from tiny_stages import CountingStage

from training.config import LoopConfig
from training.loop import Evaluation, Loop
from training.run_folder import RunFolder
from training.stage import Position, load_state
from training.tracking import MetricsFile, Trackers
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.errors import UserError
from utils.processes import ALONE, Processes
from utils.progress import progress_bar, set_up_logging
from utils.signals import Stopped


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path, "toy")


def train(stage, run, epochs=3, every=2, position=None):
    position = position or Position()
    tracker = Trackers(MetricsFile(run.metrics("maskgit"), position.step))
    config = LoopConfig(epochs, 8, every, keep_checkpoints=0)
    Loop(stage, config, run, tracker, position).train()
    return position


def rows(run):
    return [json.loads(line) for line in run.metrics("maskgit").read_text().splitlines()]


def test_a_whole_run(run):
    stage = CountingStage()
    position = train(stage, run)
    assert stage.total == sum(range(12))
    assert position.step == 12
    assert position.best_loss == 7
    assert load_checkpoint(run.model, "maskgit") == {"step": 12, "total": 66}


LOSSES = [5.0, 4.0, 3.0, 3.5, math.nan, 3.0, 3.1, 3.2, 3.3, 3.4, 2.0, 9.0]  # of the epochs


@pytest.mark.parametrize("stops", [False, True], ids=["at once", "resumed"])
def test_the_checkpoint_of_the_lowest_loss_is_kept(run, caplog, stops):
    config = LoopConfig(len(LOSSES), 8, 1, publish="both")
    stage, position, said = CountingStage(signal_step=20 if stops else None), Position(), []
    stage.losses = dict(enumerate(LOSSES, start=1))
    caplog.set_level(logging.INFO)
    if stops:
        with pytest.raises(SystemExit):
            Loop(stage, config, run, Trackers(), position).train()
        position, stage.signal_step = load_state(stage, run), None
    Loop(stage, config, run, Trackers(), position).train()
    assert (position.best_loss, position.best_step) == (2, 44)
    assert load_checkpoint(run.best("maskgit"), "maskgit")["step"] == 44
    assert load_checkpoint(run.model, "maskgit")["step"] == 48
    said = [record.getMessage() for record in caplog.records if "fallen" in record.getMessage()]
    assert len(said) == 1
    assert "not fallen for 5 epochs: it was lowest after epoch 3 (`publish` best or both" in said[0]


class SlopingStage(CountingStage):
    """Its training loss rises or falls by 1 a step, and its validation loss stays."""

    def __init__(self, slope):
        super().__init__()
        self.slope = slope

    def train_step(self, step):
        return {**super().train_step(step), "loss": torch.tensor(float(self.slope * step))}

    def validate(self):
        return {"loss": 1.0, "accuracy": 0.5, "accuracy_0_25": 0.25}


@pytest.mark.parametrize(("epochs", "many"), [(12, 5), (61, 7)])
@pytest.mark.parametrize("slope", [1, -1])
def test_a_run_that_stalls_says_whether_it_overfits(run, caplog, epochs, many, slope):
    """After five epochs, or a tenth of those of the run."""
    caplog.set_level(logging.INFO)
    Loop(SlopingStage(slope), LoopConfig(epochs, 8, 99), run, Trackers(), Position()).train()
    said = [line for line in caplog.messages if "not fallen" in line]
    assert [int(line.split("fallen for ")[1].split()[0]) for line in said] == [
        *range(many, epochs, many)
    ]
    assert all(line.endswith("the model overfits") == (slope < 0) for line in said)


def test_the_line_of_an_epoch_has_its_numbers_and_those_of_the_table_are_in_the_file(run, caplog):
    caplog.set_level(logging.INFO)
    train(SlopingStage(1), run)
    line = "epoch 1/3  step 4  loss 1.5000  val loss 1.0000  val accuracy 0.5000  best 1.0000  "
    assert any(said.startswith(f"{line}lr 2.50e-01  ") for said in caplog.messages)
    assert [row["val/accuracy_0_25"] for row in rows(run) if "val/loss" in row] == [0.25] * 3


@pytest.mark.parametrize("stop_at", [None, *range(11)])
def test_the_line_of_an_epoch_has_the_mean_loss_of_all_its_steps(run, caplog, monkeypatch, stop_at):
    """Also where a row of metrics has just been logged, and where the run was stopped before."""
    monkeypatch.setattr("training.loop.LOG_EVERY", 3)
    caplog.set_level(logging.INFO)
    stage = CountingStage(signal_step=stop_at)
    with pytest.raises(SystemExit) if stop_at is not None else nullcontext():
        train(stage, run)
    if stop_at is not None:
        stage.signal_step = None
        train(stage, run, position=load_state(stage, run))
    losses = [line.split("loss ")[1].split()[0] for line in caplog.messages if "epoch " in line]
    assert losses == ["1.5000", "5.5000", "9.5000"]
    found = [(row["step"], row["train/loss"]) for row in rows(run) if "train/loss" in row]
    assert found == [(3, 1), (4, 3), (6, 4.5), (8, 6.5), (9, 8), (12, 10)]


def test_the_speed_of_an_epoch_is_that_of_all_its_steps(run, caplog, monkeypatch):
    monkeypatch.setattr("training.loop.LOG_EVERY", 3)
    caplog.set_level(logging.INFO)
    now = [0.0]

    class Slow(CountingStage):
        def train_step(self, step):
            now[0] += 4 if step == 3 else 2
            return super().train_step(step)

    Loop(Slow(), LoopConfig(1, 8, 9), run, Trackers(), Position(), clock=lambda: now[0]).train()
    assert any("epoch 1/1" in line and line.endswith("  3 images/s") for line in caplog.messages)


def test_whether_a_model_overfits_does_not_depend_on_the_last_step_of_an_epoch(
    run, caplog, monkeypatch
):
    """The loss falls from epoch to epoch, and a difficult batch ends each later one."""
    monkeypatch.setattr("training.loop.LOG_EVERY", 23)
    caplog.set_level(logging.INFO)

    class Uneven(SlopingStage):
        def train_step(self, step):
            metrics = super().train_step(step)
            return metrics | {"loss": metrics["loss"] + (30 if step > 4 and step % 4 == 3 else 0)}

    Loop(Uneven(-1), LoopConfig(6, 8, 99), run, Trackers(), Position()).train()
    assert [line for line in caplog.messages if line.endswith("the model overfits")]


@pytest.mark.parametrize("rank", [0, 1])
def test_the_others_wait_for_scores_however_long_they_take(run, rank):
    """A single collective would end after `processes.TIMEOUT`."""
    places = []

    class Several(Processes):
        @contextmanager
        def main_first(self):
            places.append("main first")
            yield
            places.append("done")

        def largest(self, *values):
            places.append("collective")
            return list(values)

    def measure():
        places.append("measures")
        return {"fid": 1.0}

    stage, config = CountingStage(), LoopConfig(1, 8, 1)
    evaluation = Evaluation(1, "", measure)
    several = Several(rank, 2)
    Loop(stage, config, run, Trackers(), Position(), several, evaluation=evaluation).train()
    start = places.index("main first")
    assert places[start + 1 : places.index("done")] == (["measures"] if rank == 0 else [])


def test_a_signal_cuts_the_scoring_short(run, caplog):
    """It may take an hour, and a batch system kills after some seconds."""
    bar, scored = progress_bar("sampling", 2), []

    def measure():
        signal.raise_signal(signal.SIGTERM)
        bar.update()
        return {"fid": scored.append(1)}

    caplog.set_level(logging.INFO)
    evaluation = Evaluation(1, "", measure)
    loop = Loop(
        CountingStage(), LoopConfig(2, 8, 1), run, Trackers(), Position(), ALONE, evaluation
    )
    with pytest.raises(SystemExit) as stop:
        loop.train()
    assert (stop.value.code, scored) == (143, [])
    assert load_state(CountingStage(), run).step == 4
    assert "the samples after step 4 are not scored" in caplog.text
    bar.update()  # not in a block that is cut short


@pytest.mark.parametrize("signal_step", [None, 10], ids=["at once", "resumed"])
def test_samples_are_scored_and_the_lowest_fid_is_kept(run, signal_step):
    config = LoopConfig(5, 8, 1)
    stage, position = CountingStage(signal_step=signal_step), Position()
    fid_after = {8: 3.0, 16: 1.0, 20: 2.0}  # every two epochs, and at the end
    measured = []

    def go_on(basis="one"):
        def measure():
            measured.append(position.step)
            return {"fid": fid_after[position.step], "kid": 0.5}

        tracker = Trackers(MetricsFile(run.metrics("maskgit"), position.step))
        evaluation = Evaluation(2, basis, measure)
        Loop(stage, config, run, tracker, position, evaluation=evaluation).train()

    if signal_step:
        with pytest.raises(SystemExit):
            go_on()
        position, stage.signal_step = load_state(stage, run), None
    go_on()
    assert measured == [*fid_after]
    found = {row["step"]: row["samples/fid"] for row in rows(run) if "samples/fid" in row}
    assert found == fid_after
    assert load_checkpoint(run.best("maskgit", "fid"), "maskgit")["step"] == 16
    assert (position.best_fid, position.fid_basis) == (1.0, "one")
    # A figure of another protocol is not compared with these.
    position = load_state(stage, run)
    config = LoopConfig(6, 8, 1)
    fid_after[24] = 7.0
    go_on("another")
    assert position.best_fid == 7
    assert load_checkpoint(run.best("maskgit", "fid"), "maskgit")["step"] == 24


def test_only_the_option_keeps_it(run):
    train(CountingStage(), run)
    assert not run.best("maskgit").exists()
    assert not run.best("maskgit", "fid").exists()


def test_a_state_without_the_step_of_the_lowest_loss_goes_on(run):
    """Earlier versions did not save it."""
    train(CountingStage(), run)
    contents = load_checkpoint(run.resume_state("maskgit"), "maskgit-resume")
    del contents["position"]["best_step"]
    save_checkpoint(run.resume_state("maskgit"), "maskgit-resume", contents)
    position = load_state(CountingStage(), run)
    assert (position.best_loss, position.best_step) == (7, 12)


def test_a_state_without_the_losses_of_its_epoch_goes_on(run, caplog, monkeypatch):
    """Earlier versions did not save them: the mean begins at the last row of metrics."""
    monkeypatch.setattr("training.loop.LOG_EVERY", 2)
    with pytest.raises(SystemExit):
        train(CountingStage(signal_step=6), run)
    contents = load_checkpoint(run.resume_state("maskgit"), "maskgit-resume")
    for name in ("epoch_loss", "epoch_steps"):
        del contents["position"][name]
    save_checkpoint(run.resume_state("maskgit"), "maskgit-resume", contents)
    caplog.set_level(logging.INFO)
    stage = CountingStage()
    train(stage, run, position=load_state(stage, run))
    losses = [line.split("loss ")[1].split()[0] for line in caplog.messages if "epoch " in line]
    assert losses == ["6.5000", "9.5000"]


def test_a_state_is_there_before_the_first_step(run):
    with pytest.raises(UserError):
        train(CountingStage(bad_step=0), run)
    stage = CountingStage()
    assert load_state(stage, run).step == 0
    train(stage, run)
    assert stage.total == 66


def test_previews_that_show_the_dataset_stay_here(run):
    class Watching(Trackers):
        def log_image(self, name, path, step):
            shown.append(step)

    config = LoopConfig(2, 8, 1, keep_checkpoints=0)
    for generated in (True, False):
        shown, stage = [], CountingStage()
        stage.previews_are_generated = generated
        Loop(stage, config, run, Watching(), Position()).train()
        assert shown == ([4, 8] if generated else [])


def test_metrics_have_means_rates_and_validation(run):
    train(CountingStage(), run)
    training = [row for row in rows(run) if "train/loss" in row]
    assert [row["step"] for row in training] == [4, 8, 12]
    assert [row["train/loss"] for row in training] == [1.5, 5.5, 9.5]
    assert training[0]["train/lr"] == 0.25
    assert [row["train/epoch"] for row in training] == [1, 2, 3]
    assert [row["train/images"] for row in training] == [32, 64, 96]
    assert [row["train/progress"] for row in training] == pytest.approx([1 / 3, 2 / 3, 1], abs=1e-6)
    assert training[0]["train/images_per_second"] > 0
    assert [row["val/loss"] for row in rows(run) if "val/loss" in row] == [9, 8, 7]


def test_samples_and_checkpoints_at_their_frequency_and_at_the_end(run):
    train(CountingStage(), run, epochs=5, every=2)
    assert sorted(p.name for p in run.samples.iterdir()) == [
        "maskgit_step_0000008.png",
        "maskgit_step_0000016.png",
        "maskgit_step_0000020.png",
    ]


@pytest.mark.parametrize(("keep", "steps"), [(0, []), (1, [12]), (2, [8, 12]), (9, [4, 8, 12])])
def test_the_newest_checkpoints_are_kept_under_their_steps(run, keep, steps):
    config = LoopConfig(3, 8, 1, keep_checkpoints=keep)
    Loop(CountingStage(), config, run, Trackers(), Position()).train()
    names = {path.name for path in run.path.glob("*.pt")}
    kept = {f"MaskGIT_toy_step_{step:07d}.pt" for step in steps}
    assert names == {"MaskGIT_toy.pt", "resume_maskgit.pt"} | kept
    for step in steps:
        contents = load_checkpoint(run.kept("maskgit", step), "maskgit")
        assert contents == {"step": step, "total": sum(range(step))}


def test_kept_checkpoints_are_in_the_order_of_their_steps(run):
    steps = [9_999_990, 10_000_000, 20]
    for step in steps:
        run.kept("maskgit", step).touch()
    (run.path / "MaskGIT_toy_step_best.pt").touch()  # somebody's own
    assert run.all_kept("maskgit") == [run.kept("maskgit", step) for step in sorted(steps)]


def test_a_run_resumes_where_it_was_saved(run):
    with pytest.raises(SystemExit) as stop:
        train(CountingStage(signal_step=5), run)
    assert stop.value.code == 143
    resumed = CountingStage()
    position = load_state(resumed, run)
    assert position.step == 6
    assert resumed.total == 15
    train(resumed, run, position=position)
    assert resumed.total == 66
    assert [row["step"] for row in rows(run) if "val/loss" in row] == [4, 8, 12]


def test_a_resumed_run_logs_what_the_uninterrupted_one_does(run, tmp_path):
    straight = RunFolder(tmp_path / "straight", "toy")
    straight.path.mkdir()
    train(CountingStage(), straight)
    with pytest.raises(SystemExit):
        train(CountingStage(signal_step=5), run)
    resumed = CountingStage()
    train(resumed, run, position=load_state(resumed, run))
    timeless = [
        [{k: v for k, v in row.items() if "per_second" not in k} for row in rows(folder)]
        for folder in (run, straight)
    ]
    assert [row["train/loss"] for row in timeless[1] if "train/loss" in row] == [1.5, 5.5, 9.5]
    losses = [[row.get("train/loss") for row in kept] for kept in timeless]
    assert losses[0] == losses[1]


@contextmanager
def handled(number, handler):
    """Let a signal mean something else in the block."""
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129), (signal.SIGUSR1, 138)],
)
def test_signals_are_heard_and_told(run, capfd, number, code):
    # This process may have been started by nohup, or in the background.
    with handled(number, signal.default_int_handler), pytest.raises(SystemExit) as stop:
        train(CountingStage(signal_step=2, signal_number=number), run)
    assert stop.value.code == code
    assert "stopping after this step" in capfd.readouterr().err
    assert load_state(CountingStage(), run).step == 3


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_that_is_ignored_as_under_nohup_stops_nothing(run, number):
    with handled(number, signal.SIG_IGN):
        stage = CountingStage(signal_step=2, signal_number=number)
        train(stage, run)
    assert stage.total == 66


@pytest.mark.parametrize("contents", [torch.zeros(2, 3), [], "text", {0: []}, None])
def test_a_state_of_another_kind_is_refused_in_one_line(run, contents):
    train(CountingStage(), run)
    path = run.resume_state("maskgit")
    state = load_checkpoint(path, "maskgit-resume")
    save_checkpoint(path, "maskgit-resume", {**state, "stage": contents})
    with pytest.raises(UserError, match="does not fit this run"):
        load_state(CountingStage(), run)


class LosingStage(CountingStage):
    """Cannot read the images of its sixth step."""

    def train_step(self, step):
        if step == 5:
            raise UserError("a process that reads images was killed")
        return super().train_step(step)


def test_images_that_cannot_be_read_end_the_run_with_its_state_saved(run):
    said = r"was killed \(the state after step 5 is saved; continue with `resume`\)"
    with pytest.raises(UserError, match=said):
        train(LosingStage(), run, every=99)
    resumed = CountingStage()
    position = load_state(resumed, run)
    assert position.step == 5
    train(resumed, run, position=position)
    assert resumed.total == 66


@contextmanager
def stdout_that_fails(monkeypatch, number):
    """Log to a stdout whose every write fails with an error number."""

    class Failing(io.StringIO):
        def write(self, text):
            raise OSError(number, os.strerror(number))

    root = logging.getLogger()
    before = root.handlers[:], root.level
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Failing())
        set_up_logging()
        try:
            yield
        finally:
            root.handlers[:], root.level = before


def test_a_reader_of_the_output_that_leaves_stops_the_run_with_its_state_saved(run, monkeypatch):
    with stdout_that_fails(monkeypatch, errno.EPIPE), pytest.raises(SystemExit) as stop:
        train(CountingStage(), run)
    assert stop.value.code == 141
    resumed = CountingStage()
    position = load_state(resumed, run)
    assert 0 < position.step < 12
    train(resumed, run, position=position)
    assert resumed.total == 66


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_log_that_cannot_be_written_stops_nothing(run, monkeypatch, number):
    stage = CountingStage()
    with stdout_that_fails(monkeypatch, number):
        train(stage, run)
    assert stage.total == 66


def test_outside_of_a_training_an_output_that_is_lost_ends_the_program(monkeypatch):
    with stdout_that_fails(monkeypatch, errno.EPIPE), pytest.raises(Stopped):
        logging.getLogger().info("a line")
    with (
        stdout_that_fails(monkeypatch, errno.ENOSPC),
        pytest.raises(UserError, match="stdout cannot be written: No space left"),
    ):
        logging.getLogger().info("a line")


def test_handlers_are_restored_after_a_run(run):
    before = signal.getsignal(signal.SIGTERM)
    train(CountingStage(), run)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_last_state(run):
    with pytest.raises(UserError, match=r"step 6.*learning rate"):
        train(CountingStage(bad_step=6), run, every=1)
    assert load_checkpoint(run.resume_state("maskgit"), "maskgit-resume")["position"]["step"] == 4


def test_a_few_steps_without_a_finite_gradient_are_skipped_and_told(run):
    stage = CountingStage(skipped={1, 2, 5})
    train(stage, run)
    assert stage.total == sum(range(12)) - 8
    assert [row["train/skipped"] for row in rows(run) if "train/loss" in row] == [0.5, 0.25, 0]


def test_gradients_that_stay_non_finite_end_the_run(run):
    with pytest.raises(UserError, match=r"10 gradients in a row.*step 15"):
        train(CountingStage(skipped=range(6, 40)), run, epochs=9, every=1)
    state = load_checkpoint(run.resume_state("maskgit"), "maskgit-resume")
    assert state["position"]["step"] == 12


def test_saving_by_time(run, monkeypatch):
    monkeypatch.setattr("training.loop.SAVE_EVERY_MINUTES", 0)
    stage = CountingStage(bad_step=3)
    config = LoopConfig(3, 8, 99, keep_checkpoints=0)
    with pytest.raises(UserError):
        Loop(stage, config, run, Trackers(), Position()).train()
    assert load_checkpoint(run.resume_state("maskgit"), "maskgit-resume")["position"]["step"] == 3


@pytest.mark.parametrize("minutes", [0, 99])
def test_a_checkpoint_is_written_once_after_a_step(run, monkeypatch, minutes):
    """A kill between the last state and a second writing would leave half a file for good."""
    written = []
    monkeypatch.setattr("training.loop.SAVE_EVERY_MINUTES", minutes)
    monkeypatch.setattr(
        "training.loop.publish_checkpoint",
        lambda stage, run, position, *_: written.append(position.step),
    )
    train(CountingStage(), run)
    assert written == ([8, 12] if minutes else list(range(1, 13)))


def test_metrics_on_a_full_disk_are_one_clear_line(tmp_path, monkeypatch):
    metrics = MetricsFile(tmp_path / "m.jsonl", 0)
    full = io.BufferedWriter(io.FileIO("/dev/full", "w"))
    monkeypatch.setattr("training.tracking.open_own", lambda path, mode: full)
    with pytest.raises(UserError, match=r"cannot write .*m\.jsonl: No space left .*`resume`"):
        metrics.log({"loss": 1.0}, 1)


def test_metrics_after_the_resumed_step_are_cut(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(path, 0)
    for step in (1, 2, 3, 4):
        metrics.log({"loss": step / 3}, step)
    with path.open("a") as file:
        file.write('{"step": 5, "lo')  # what a crash leaves
    MetricsFile(path, 2).log({"loss": 9}, 3)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]
    assert json.loads(path.read_text().splitlines()[-1])["loss"] == 9

"""Starting and continuing a stage in the folder of a run, and what is written down about it."""

import dataclasses
import logging
import math
import os
import shutil
from contextlib import contextmanager
from functools import partial
from unittest.mock import Mock

import pytest
import torch

from training.config import LoopConfig, TrainingConfig
from training.learning_rate import LearningRate
from training.loop import Evaluation
from training.run_folder import RunFolder
from training.run_record import MADE_FROM, RunRecord, check_made_from, read_config, read_files
from training.runs import has_steps_left, keep_settings, opened
from training.stage import load_position
from training.tracking import read_metrics
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.errors import UserError
from utils.plain import NOTHING
from utils.processes import Processes
from utils.records import write_record


class ShortStage:
    """Two steps an epoch, which count themselves."""

    name = kind = "vqgan"
    steps_per_epoch = 2
    previews_are_generated = False

    def __init__(self, epochs, losses=()):
        self.training = TrainingConfig(epochs=epochs)
        self.learning_rate = LearningRate(1.0, epochs, 10, self.steps_per_epoch)
        self.steps, self.losses = 0, iter(losses)

    def train_step(self, step):
        self.steps += 1
        return {"loss": torch.tensor(1.0), "skipped": torch.tensor(0.0)}

    def validate(self):
        return {"loss": next(self.losses, 1.0)}

    def preview(self, path):
        pass

    def checkpoint(self, step):
        return {"step": step}

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]


LOWEST = "the validation loss was lowest after step 2"


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "run", "toy")


RECORD = RunRecord(
    settings={"n_epochs": 2, "data_dir": "/home/me"},
    made_from={"images": 5},
    private=frozenset({"data_dir"}),
    epochs_name="n_epochs",
)


def looked_at(run, epochs=2, **changes):
    """The record of a job that looks at the folder now."""
    settings = {**RECORD.settings, "n_epochs": epochs}
    found = read_config(run).get("vqgan") if run.resume_state("vqgan").is_file() else None
    return dataclasses.replace(RECORD, settings=settings, continues=found, **changes)


def run_stage(*arguments, **settings):
    with opened(*arguments, **settings) as loop:
        loop.train()


def train(run, epochs=2, record=None, use_wandb=False, loop=NOTHING, losses=(), **changes):
    """Train, with changes of the record; `loop` has settings of the loop."""
    stage = ShortStage(epochs, losses)
    record = record or looked_at(run, epochs, **changes)
    config = LoopConfig(epochs, 8, use_wandb=use_wandb, **loop)
    run_stage(stage, run, config, record)
    return stage


def written(run):
    return read_config(run)


def test_a_run_writes_down_what_it_is_made_of(run):
    assert train(run).steps == 4
    entry = {"n_epochs": 2, "data_dir": "/home/me", MADE_FROM: {"images": 5}}
    assert written(run) == {"vqgan": entry}
    assert RECORD.public() == {"n_epochs": 2, MADE_FROM: {"images": 5}}


class Wandb:
    """Takes a run's id, or gives it a new one."""

    ids = names = configs = closed = ()

    def __init__(self, folder, name, config, run_id):
        Wandb.ids, Wandb.names = (*Wandb.ids, run_id), (*Wandb.names, name)
        Wandb.configs = (*Wandb.configs, config)
        self.run_id = run_id or f"id-{len(Wandb.ids)}"

    def close(self):
        Wandb.closed = (*Wandb.closed, self.run_id)

    log = log_image = sync = lambda *_: None


@pytest.fixture
def _wandb(monkeypatch):
    monkeypatch.setattr("training.runs.WandbTracker", Wandb)
    for name in ("ids", "names", "configs", "closed"):
        monkeypatch.setattr(Wandb, name, ())


@pytest.mark.usefixtures("_wandb")
def test_an_id_of_wandb_belongs_to_the_folder_it_was_made_in(run, tmp_path):
    train(run, use_wandb=True)
    shutil.copytree(run.path, tmp_path / "copy")
    copy = RunFolder(tmp_path / "copy", "toy")
    train(copy, epochs=3)  # without wandb it stays a copy
    train(copy, epochs=4, use_wandb=True)
    train(copy, epochs=5, use_wandb=True)
    assert Wandb.ids == (None, None, "id-2")
    # A folder that is moved, or brought back to its place, is the same.
    train(run, epochs=3, use_wandb=True)
    moved = RunFolder(run.path.rename(tmp_path / "moved"), "toy")
    train(moved, epochs=4, use_wandb=True)
    backup = shutil.copytree(moved.path, tmp_path / "backup")
    shutil.rmtree(moved.path)
    shutil.copytree(backup, moved.path)
    train(moved, epochs=5, use_wandb=True)
    assert Wandb.ids[3:] == ("id-1", "id-1", "id-1")


@pytest.mark.usefixtures("_wandb")
def test_a_state_that_does_not_say_where_its_id_was_made_keeps_it(run):
    """As those of earlier versions."""
    train(run, use_wandb=True)
    state = load_checkpoint(run.resume_state("vqgan"), "vqgan-resume")
    del state["position"]["wandb_home"]
    save_checkpoint(run.resume_state("vqgan"), "vqgan-resume", state)
    train(run, epochs=3, use_wandb=True)
    assert Wandb.ids == (None, "id-1")


@pytest.mark.usefixtures("_wandb")
def test_a_run_that_fails_closes_what_it_told_wandb_without_what_is_private(run, monkeypatch):
    monkeypatch.setattr(ShortStage, "validate", Mock(side_effect=MemoryError))
    with pytest.raises(MemoryError):
        train(run, use_wandb=True)
    assert (Wandb.names, Wandb.configs) == (("run-vqgan",), (RECORD.public(),))
    assert Wandb.closed == ("id-1",)


def test_settings_are_kept_before_a_run_begins_and_not_over_one_that_has_begun(run):
    keep_settings("vqgan", run, looked_at(run, epochs=3))
    assert written(run)["vqgan"]["n_epochs"] == 3
    train(run)
    keep_settings("vqgan", run, looked_at(run, epochs=9))
    assert written(run)["vqgan"]["n_epochs"] == 2
    with pytest.raises(UserError, match="another job"):
        keep_settings("vqgan", run, RECORD)


def test_a_preview_that_could_not_be_written_is_found_before_a_run_begins(run):
    run.path.mkdir()
    run.samples.write_text("")
    said = r"cannot write to the folder .*samples: File exists"
    with pytest.raises(UserError, match=said):
        keep_settings("vqgan", run, RECORD)
    with pytest.raises(UserError, match=said):
        train(run)
    assert not run.resume_state("vqgan").exists()


@pytest.mark.parametrize(("epochs", "left"), [(2, False), (3, True)])
def test_whether_a_run_has_steps_left_is_known_before_it_goes_on(run, epochs, left):
    assert has_steps_left("vqgan", run, looked_at(run), 4)
    train(run)
    assert has_steps_left("vqgan", run, looked_at(run, epochs), 2 * epochs) == left


@pytest.mark.parametrize(
    ("before", "now", "minutes", "steps"),
    [(1, 0, None, 8), (1, 3, None, 8), (2, 1, None, 6), (2, 2, None, 6), (1, 0, 5.0, 4)],
)
def test_a_run_that_stopped_early_goes_on_without_that(run, caplog, before, now, minutes, steps):
    caplog.set_level(logging.INFO)

    def go_on(early_stop):
        record = looked_at(run, 4)
        record.settings.update(early_stop=early_stop, minutes=minutes)
        return train(run, 4, record, loop={"early_stop": early_stop}).steps

    first = go_on(before)
    assert go_on(before) == first == 2 * (before + 1)
    assert "for 2 epochs: `early_stop` 0 or a larger `n_epochs` trains" in caplog.text or before > 1
    assert go_on(now) == steps


@pytest.mark.parametrize("more", [{"epochs": 5}, {"has_new_images": True}], ids=str)
def test_a_run_that_ended_early_goes_on_with_more_epochs_or_images_alone(run, more):
    """As a run does whose length was chosen to fit a time limit."""
    assert train(run, 4, loop={"early_stop": 1}).steps == 4
    assert not has_steps_left("vqgan", run, looked_at(run, 4), 8)
    assert train(run, 4).steps == 4
    steps = 2 * more.get("epochs", 4)
    assert has_steps_left("vqgan", run, looked_at(run, **{"epochs": 4, **more}), steps)
    assert train(run, **{"epochs": 4, **more}).steps == steps


def test_a_longer_run_that_dies_before_its_first_save_goes_on_all_the_same(run, monkeypatch):
    train(run, 4, loop={"early_stop": 1})
    with monkeypatch.context() as patch:
        patch.setattr(ShortStage, "train_step", lambda stage, step: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(run, 5)
    assert written(run)["vqgan"]["n_epochs"] == 5
    assert train(run, 5).steps == 10


def test_a_run_without_its_state_has_no_steps_left_and_says_the_way_out(run):
    train(run)
    record = looked_at(run)
    run.resume_state("vqgan").write_bytes(b"")
    with pytest.raises(UserError, match=r"is intact; start another `run_name` with .*\.init` "):
        has_steps_left("vqgan", run, record, 4)


def test_a_student_without_its_state_has_a_model_and_no_weights_to_start_another_from(run):
    save_checkpoint(run.model, "maskgit", {"step": 4})
    record = dataclasses.replace(RECORD, continues=RECORD.entry())
    with pytest.raises(UserError, match=r"MaskGIT_toy\.pt is intact; start another `run_name`$"):
        has_steps_left("student", run, record, 4)


def test_the_loss_with_new_images_is_not_compared_with_the_one_before(run):
    train(run)
    train(run, 3, losses=[2.0], has_new_images=True)
    position = load_position("vqgan", run)
    assert (position.best_loss, position.best_step) == (2, 6)


def test_more_epochs_continue_a_run_and_are_told(run, caplog):
    caplog.set_level(logging.INFO)
    train(run)
    half_written = run.path / ".MaskGIT_toy.pt.0.1.partial"  # of a process that was killed long ago
    half_written.touch()
    os.utime(half_written, (0, 0))
    assert train(run).steps == 4
    assert not half_written.exists()
    said = "vqgan has already been trained for 2 epochs: "
    assert f"{said}a larger `n_epochs` trains it further" in caplog.messages
    train(run, loop={"ends_at": 0})
    way_out = "another `run_name` with `TrainingConfig.init` trains it further"
    assert f"{said}{way_out}" in caplog.messages
    assert train(run, epochs=4).steps == 8
    assert "vqgan continues after step 4" in caplog.messages
    # The fifth step is the fourth of seven after the warm-up; with 2 epochs there was none.
    rate = 0.5 * (1 + math.cos(math.pi * 3 / 7))
    said = f"4 epochs instead of 2: the learning rate is now {rate:.3g}, before it was 0"
    assert said in caplog.messages
    assert [row["step"] for row in read_metrics(run.metrics("vqgan")) if "val/loss" in row] == [
        *(2, 4, 6, 8)
    ]


@pytest.mark.parametrize(
    ("losses", "publish", "published", "best"),
    [
        ([2.0, 1.0], "last", "after step 4", None),
        ([1.0, 2.0], "last", f"after step 4; {LOWEST}: `publish` best takes those weights", None),
        ([1.0, 2.0], "best", f"after step 2; {LOWEST}", None),
        ([1.0, 2.0], "both", f"after step 4; {LOWEST}: `publish` best takes those weights", 2),
        ([math.nan, math.nan], "best", "after step 4", None),
        ([math.nan, math.nan], "both", "after step 4", None),
    ],
)
def test_a_line_says_which_weights_a_checkpoint_has(run, caplog, losses, publish, published, best):
    caplog.set_level(logging.INFO)
    train(run, loop={"publish": publish}, losses=losses)
    said = [line for line in caplog.messages if line.startswith("written") and ".pt" in line]
    expected = [f"written: {run.tokenizer} ({published})"]
    expected += [f"written: {run.best('vqgan')} (after step {best})"] if best else []
    assert said == expected
    assert load_checkpoint(run.tokenizer, "vqgan") == {"step": int(published.split(";")[0][11:])}


def test_a_checkpoint_of_the_lowest_loss_that_was_kept_before_is_not_said_to_be_published(
    run, caplog
):
    train(run, loop={"publish": "both"})
    caplog.set_level(logging.INFO)
    train(run, 3, losses=[0.5])
    said = [line for line in caplog.messages if line.startswith("written") and ".pt" in line]
    assert said == [f"written: {run.tokenizer} (after step 6)"]


def test_a_line_says_which_checkpoint_has_the_lowest_fid(run, caplog):
    caplog.set_level(logging.INFO)
    evaluation = Evaluation(1, "", lambda: {"fid": 3.25})
    record = looked_at(run)
    config = LoopConfig(2, 8, use_wandb=False)
    run_stage(ShortStage(2), run, config, record, evaluation=evaluation)
    path = run.best("vqgan", "fid")
    assert f"written: {path} (the lowest FID while training, 3.2500)" in caplog.messages


def test_a_short_warm_up_names_the_setting(run, caplog):
    caplog.set_level(logging.INFO)
    for epochs, used in ((2, "0.2 epochs"), (10, "1 epoch")):
        train(run, epochs)
        said = f"`TrainingConfig.warmup_epochs` 10: {used} of warm-up, a tenth of the run"
        assert caplog.messages.count(said) == 1


def test_a_warm_up_of_its_whole_length_or_of_a_run_of_unknown_length_is_not_said(run, caplog):
    caplog.set_level(logging.INFO)
    train(run, epochs=100)
    train(RunFolder(run.path.with_name("timed"), "toy"), loop={"ends_at": -1.0})
    assert "of warm-up" not in caplog.text


class OneOfTwo(Processes):
    """The second of two processes; the main one is at a step."""

    at = 0

    def largest(self, *values):
        return list(values)

    def from_main(self, compute):
        return self.at

    @contextmanager
    def main_first(self):
        yield


def test_only_the_main_process_writes_and_the_others_need_its_folder(run, monkeypatch):
    stage, config, other = ShortStage(2), LoopConfig(2, 8, publish="both"), OneOfTwo(1, 2)
    run_stage(stage, run, config, looked_at(run), processes=other)
    assert stage.steps == 4
    assert not run.path.exists()
    monkeypatch.setattr(OneOfTwo, "at", 2)
    with pytest.raises(UserError, match="is not the same folder for all processes: share it"):
        run_stage(stage, run, config, looked_at(run), processes=other)


def test_other_data_make_another_run(run):
    train(run)
    with pytest.raises(UserError, match=r"the images of the run in .* changed from 5 to 6: .*"):
        train(run, epochs=3, made_from={"images": 6})


# --- What decides what a job does is read again under the lock ---


def state_of(run):
    return run.resume_state("vqgan").read_bytes(), run.config.read_bytes()


def test_a_job_that_found_the_folder_empty_does_not_go_on_with_another_ones_run(run):
    waiting = looked_at(run, epochs=4)
    train(run)  # another job, while the first one waits
    before = state_of(run)
    with pytest.raises(UserError, match=r"has trained a vqgan run in .*`resume` continues"):
        train(run, epochs=4, record=waiting)
    assert state_of(run) == before


def test_a_job_that_found_the_folder_empty_does_not_replace_a_run_that_has_just_begun(run):
    waiting = looked_at(run)
    train(run)
    run.tokenizer.unlink()  # the other job has not come to its first checkpoint
    with pytest.raises(UserError, match="has trained a vqgan run"):
        train(run, record=waiting)


def test_a_stage_with_the_same_checkpoint_that_began_meanwhile_is_found(run):
    run.path.mkdir()
    run.resume_state("student").touch()
    with pytest.raises(UserError, match=r"holds a student run, which also writes MaskGIT_toy\.pt"):
        keep_settings("maskgit", run, RECORD)
    keep_settings("vqgan", run, RECORD)  # writes another one


def test_a_job_that_found_the_folder_empty_does_not_replace_a_finished_model(run):
    waiting = looked_at(run)
    run.path.mkdir()
    run.tokenizer.write_text("a model")
    with pytest.raises(UserError, match="another job"):
        train(run, record=waiting)
    assert run.tokenizer.read_text() == "a model"


def test_a_job_that_resumes_what_another_one_has_changed_since_then_is_refused(run):
    train(run)
    waiting = looked_at(run, epochs=3)
    train(run, epochs=4)
    before = state_of(run)
    with pytest.raises(UserError, match="another job has changed the vqgan run"):
        train(run, epochs=3, record=waiting)
    assert state_of(run) == before


def test_a_job_that_resumes_a_run_that_is_gone_is_refused(run):
    train(run)
    waiting = looked_at(run, epochs=3)
    run.resume_state("vqgan").unlink()
    with pytest.raises(UserError, match="another job has changed the vqgan run"):
        train(run, epochs=3, record=waiting)


def test_what_the_same_command_planned_is_not_another_jobs_run(run):
    run.path.mkdir()
    waiting = looked_at(run)
    write_record(run.config, {"vqgan": {"n_epochs": 9}})  # by the stage before
    assert train(run, record=waiting).steps == 4


# --- What a run is made of ---

IMAGES = {
    "images": 3, "class_names": ["cat", "dog"], "labels": "1a", "source": "2b",
    "tokenizer": "3c", "tokens": "4d",
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "now", "said"),
    [
        ("images", 4, "the images of the run in .* changed from 3 to 4:"),
        ("class_names", ["zebra", "dog"], "class 0 was cat, is zebra:"),
        ("class_names", ["cat"], "the classes of the run in .* changed: cat dog, now cat:"),
        ("class_names", ["cat"] * 999, "changed: cat dog, now cat.{160,190}: give the run's own"),
        ("class_names", ["c" * 999, "d"], "class 0 was cat, is c{170,190}: give the run's own"),
        ("labels", "0", "the labels of the images of the run in .* changed:"),
        ("source", "0", "the images of the run in .* changed:"),
        (
            "tokenizer",
            "0",
            "tokenizer of the run in .* changed from 3c to 0: give the run's own `ch",
        ),
    ],
)
def test_what_differs_from_the_run_is_named(run, name, now, said):
    with pytest.raises(UserError, match=said):
        check_made_from({**IMAGES, name: now}, {MADE_FROM: IMAGES}, run)


def test_names_of_classes_that_are_no_list_any_more_are_told(run):
    with pytest.raises(UserError, match="changed: 5, now cat dog:"):
        check_made_from(IMAGES, {MADE_FROM: {"class_names": 5}}, run)


def test_a_run_finds_the_tokenizer_that_it_began_with_in_its_model(run):
    run.path.mkdir(parents=True, exist_ok=True)
    run.model.touch()
    with pytest.raises(UserError, match=f"give `checkpoint_vae` {run.model}"):
        check_made_from({**IMAGES, "tokenizer": "0"}, {MADE_FROM: IMAGES}, run)


def test_what_a_run_of_before_did_not_write_down_is_not_compared(run):
    check_made_from(IMAGES, {MADE_FROM: {"images": 3, "tokenizer": "3c"}}, run)
    check_made_from(IMAGES, {}, run)


def test_other_tokens_of_the_same_images_are_told(run, caplog):
    check_made_from({**IMAGES, "tokens": "0"}, {MADE_FROM: IMAGES}, run)
    assert "the tokens differ from those that the run in" in caplog.text


def test_names_of_classes_and_paths_do_not_leave_the_machine():
    record = dataclasses.replace(
        RECORD, made_from=IMAGES, private=frozenset({"data_dir", "class_names"})
    )
    shown = {name: IMAGES[name] for name in IMAGES if name != "class_names"}
    assert record.public() == {"n_epochs": 2, MADE_FROM: shown}


@pytest.mark.parametrize(
    ("was", "now"), [("n_epochs", "n_epochz"), ("/home/me", "/home/mE"), ('"vqgan"', '"vqgbn"')]
)
def test_settings_that_changed_on_the_disk_are_refused_by_name(run, was, now):
    train(run)
    run.config.write_text(run.config.read_text().replace(was, now))
    with pytest.raises(UserError, match=r"config\.json is damaged \(its checksum is that of"):
        read_config(run)


def test_a_checksum_whose_name_has_changed_on_the_disk_is_not_passed_over(run):
    files = {"training": {"a.png": 5}, "validation": {"a.png": 6}}
    train(run, files=files)
    assert read_files(run, "vqgan") == files
    for path, read in (
        (run.config, read_config),
        (run.images("vqgan"), partial(read_files, stage="vqgan")),
    ):
        path.write_text(path.read_text().replace('"checksum"', '"checksun"'))
        with pytest.raises(UserError, match="its entry 'checksun' is unknown"):
            read(run)


@pytest.mark.parametrize("settings", [["n_epochs"], "made", {MADE_FROM: "images"}])
def test_settings_of_another_kind_are_refused_by_name(run, settings):
    run.path.mkdir()
    write_record(run.config, {"vqgan": settings})
    with pytest.raises(UserError, match=r"config\.json is damaged: its entry 'vqgan' holds no"):
        read_config(run)

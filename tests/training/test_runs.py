"""Starting and continuing a stage in the folder of a run, and what is written down about it."""

import dataclasses
import logging
import shutil

import pytest
import torch

from training.config import LoopConfig, TrainingConfig
from training.learning_rate import LearningRate
from training.run_folder import RunFolder
from training.runs import (
    MADE_FROM,
    RunRecord,
    check_made_from,
    has_steps_left,
    keep_settings,
    read_config,
    run_stage,
)
from utils.errors import UserError
from utils.records import write_record


class ShortStage:
    """Two steps an epoch, which count themselves."""

    name = kind = "vqgan"
    steps_per_epoch = 2
    previews_are_generated = False

    def __init__(self, epochs):
        self.training = TrainingConfig(epochs=epochs)
        self.learning_rate = LearningRate(1.0, epochs, 10, self.steps_per_epoch)
        self.steps = 0

    def train_step(self, step):
        self.steps += 1
        return {"loss": torch.tensor(1.0), "skipped": torch.tensor(0.0)}

    def validate(self):
        return {"loss": 1.0}

    def preview(self, path):
        pass

    def checkpoint(self, step):
        return {"step": step}

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]


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


def train(run, epochs=2, record=None, use_wandb=False, **changes):
    stage = ShortStage(epochs)
    record = record or looked_at(run, epochs, **changes)
    run_stage(stage, run, LoopConfig(epochs, 8), record, use_wandb=use_wandb)
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

    ids = ()

    def __init__(self, folder, name, config, run_id):
        Wandb.ids = (*Wandb.ids, run_id)
        self.run_id = run_id or f"id-{len(Wandb.ids)}"

    log = log_image = sync = close = lambda *_: None


def test_an_id_of_wandb_belongs_to_the_folder_it_was_made_in(run, tmp_path, monkeypatch):
    monkeypatch.setattr("training.runs.WandbTracker", Wandb)
    monkeypatch.setattr(Wandb, "ids", ())
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


def test_more_epochs_continue_a_run_and_are_told(run, caplog):
    caplog.set_level(logging.INFO)
    train(run)
    assert train(run).steps == 4
    assert "vqgan has already been trained for 2 epochs" in caplog.messages
    assert train(run, epochs=4).steps == 8
    assert "vqgan continues after step 4" in caplog.messages
    assert any(line.startswith("4 epochs instead of 2: the lear") for line in caplog.messages)


def test_a_short_warm_up_names_the_setting(run, caplog):
    caplog.set_level(logging.INFO)
    train(run)
    said = "`TrainingConfig.warmup_epochs` 10: 0.2 epochs of warm-up, a tenth of the run"
    assert said in caplog.messages


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
        ("labels", "0", "the labels of the images of the run in .* changed:"),
        ("source", "0", "the images of the run in .* changed:"),
        ("tokenizer", "0", "the tokenizer of the run in .* changed from 3c to 0:"),
    ],
)
def test_what_differs_from_the_run_is_named(run, name, now, said):
    with pytest.raises(UserError, match=said):
        check_made_from({**IMAGES, name: now}, {MADE_FROM: IMAGES}, run)


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


@pytest.mark.parametrize("settings", [["n_epochs"], {MADE_FROM: "images"}])
def test_settings_of_another_kind_are_refused_by_name(run, settings):
    run.path.mkdir()
    write_record(run.config, {"vqgan": settings})
    with pytest.raises(UserError, match=r"config\.json is damaged: its entry 'vqgan' holds no"):
        read_config(run)

"""Starting and continuing a stage in the folder of a run, and what is written down about it."""

import dataclasses
import json
import logging

import pytest
import torch

from training.config import LoopConfig, TrainingConfig
from training.learning_rate import LearningRate
from training.run_folder import RunFolder
from training.runs import MADE_FROM, RunRecord, run_stage
from utils.errors import UserError


class ShortStage:
    """Two steps an epoch, which count themselves."""

    name = "vqgan"
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
    planned={"maskgit": {"n_epochs": 7}},
    private=frozenset({"data_dir"}),
    epochs_name="n_epochs",
)


def train(run, epochs=2, **changes):
    stage = ShortStage(epochs)
    settings = {**RECORD.settings, "n_epochs": epochs}
    record = dataclasses.replace(RECORD, settings=settings, **changes)
    run_stage(stage, run, LoopConfig(epochs, 8), record, use_wandb=False)
    return stage


def written(run):
    return json.loads(run.config.read_text())


def test_a_run_writes_down_what_it_is_made_of_and_what_will_follow(run):
    assert train(run).steps == 4
    entry = {"n_epochs": 2, "data_dir": "/home/me", MADE_FROM: {"images": 5}}
    assert written(run) == {"vqgan": entry, "maskgit": {"n_epochs": 7}}
    assert RECORD.public() == {"n_epochs": 2, MADE_FROM: {"images": 5}}


def test_what_will_follow_is_not_written_over_what_has_begun(run):
    train(run)
    run.resume_state("maskgit").touch()
    train(run, epochs=3, planned={"maskgit": {"n_epochs": 9}})
    assert written(run)["maskgit"] == {"n_epochs": 7}
    assert written(run)["vqgan"]["n_epochs"] == 3


def test_more_epochs_continue_a_run_and_are_told(run, caplog):
    caplog.set_level(logging.INFO)
    train(run)
    assert train(run).steps == 4
    assert "vqgan is trained already, for 2 epochs" in caplog.messages
    assert train(run, epochs=4).steps == 8
    assert "vqgan continues after step 4" in caplog.messages
    assert any(line.startswith("4 epochs instead of 2: the lear") for line in caplog.messages)


def test_a_short_warm_up_names_the_setting(run, caplog):
    caplog.set_level(logging.INFO)
    train(run)
    told = "`TrainingConfig.warmup_epochs` 10: 0.2 epochs of warm-up, a tenth of the run"
    assert told in caplog.messages


def test_other_data_make_another_run(run):
    train(run)
    with pytest.raises(UserError, match=r"the images of the run in .* were 5, now they are 6: .*"):
        train(run, epochs=3, made_from={"images": 6})

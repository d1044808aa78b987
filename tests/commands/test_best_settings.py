"""The settings that a sweep finds best travel in the checkpoint of the model."""

import csv
import shutil
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from commands.generation import changed_options
from commands.sweep import keep_best_settings
from models.modern.config import ModernConfig
from models.open import load_model
from models.sampling import SamplingConfig
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.errors import UserError
from utils.version import VERSION


class Means(nn.Module):
    """A feature network without logits: the mean gray of 14 parts of an image."""

    def forward(self, images):
        return nn.functional.adaptive_avg_pool2d(images.float(), (7, 2)).flatten(1)


@pytest.fixture(scope="module")
def feature_net(tmp_path_factory):
    path = tmp_path_factory.mktemp("net") / "net.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Means()).save(path)
    return path


@pytest.fixture
def evaluate(run, feature_net):
    return lambda arguments: run(f"--features {feature_net} {arguments}")


@pytest.fixture
def model(trained, tmp_path):
    """The checkpoint of a tiny model, to be written to."""
    return shutil.copy(trained / "MaskGIT_mnist.pt", tmp_path / "model.pt")


@pytest.fixture
def samples(run, model, tmp_path):
    def sample(options):
        said = run(f"--sample --checkpoint {model} --num_samples 10 {options}")
        with np.load(tmp_path / "mnist" / "samples" / "samples.npz") as stored:
            return stored["arr_0"], said

    return sample


SWEEP = "--num_samples 20 --precision fp32 --cfg_w 2 --sampler moment --keep_best"


def test_they_are_kept_used_and_said(evaluate, samples, run, model, tmp_path):
    before = load_checkpoint(model, "maskgit")
    evaluate(f"--checkpoint {model} --sweep step=2,5 {SWEEP}")
    after = load_checkpoint(model, "maskgit")

    # Nothing else in the file has changed.
    entry = after.pop("best_settings")
    for name in ("weights", "ema"):
        assert all(value.equal(before[name][key]) for key, value in after[name].items())
    others = [name for name in before if name not in ("weights", "ema", "tokenizer")]
    assert {name: after[name] for name in others} == {name: before[name] for name in others}

    # They are the row with the lowest FID, with its protocol.
    opened = load_model(model, precision="fp32")
    with (tmp_path / "mnist" / "sweep" / "sweep.csv").open() as file:
        fid = {row["step"]: float(row["fid"]) for row in csv.DictReader(file)}
    assert fid.keys() == {"2", "5"}
    best = min(fid, key=fid.get)
    assert opened.best.scores["fid"] == fid[best]
    assert opened.best_settings["num_steps"] == int(best)
    assert (opened.best_settings["guidance"], opened.best_settings["sampler"]) == (2, "moment")
    protocol = entry["protocol"]
    assert (protocol["images"], protocol["program"]) == (20, VERSION)
    assert protocol["extractor"]["sha256"]
    assert protocol["checkpoint"]["fingerprint"] == opened.fingerprint

    # Sampling says that they are there and keeps its defaults; with --settings best it uses them.
    common = "--labels 0-9 --precision fp32"
    usual, said = samples(common)
    options = f"step={best} cfg_w=2.0 sampler=moment"
    assert f"{model} holds the best settings of a sweep (--settings best): {options}: fid" in said
    written, _ = samples(f"{common} --step {best} --cfg_w 2 --sampler moment")
    used, said = samples(f"{common} --settings best")
    assert "holds the best settings" not in said
    assert (used == written).all()
    assert (used != usual).any()
    assert (opened.sample(range(10), seed=1, **opened.best_settings) == used).all()

    # Options that are given win, in the other modes too.
    own, _ = samples(f"{common} --settings best --sampler halton")
    expected, _ = samples(f"{common} --step {best} --cfg_w 2 --sampler halton")
    assert (own == expected).all()
    plan = run(f"--show_plan --checkpoint {model} --settings best --cfg_w 7")
    assert plan.split()[-1] == "7.000"
    assert plan.splitlines()[-1].split()[0] == best

    # A further sweep goes on with the same table, and a better row takes their place.
    said = evaluate(f"--checkpoint {model} --sweep step=2,5,7 {SWEEP} recall")
    assert "combination 3 of 3" in said
    assert load_model(model).best.metric == "recall"


def test_a_model_without_best_settings_is_named(refused, model):
    for mode in ("--sample", "--show_plan"):
        error = refused(f"{mode} --checkpoint {model} --settings best")
        assert f"--settings best: {model} has no best settings; --sweep with --keep_best" in error
    assert load_model(model).best_settings == {}


def test_a_score_that_is_not_there_keeps_nothing(evaluate, refusal, model):
    before = load_checkpoint(model, "maskgit").keys()
    command = f"--sweep step=2 --checkpoint {model} --num_samples 20 --keep_best class_accuracy"
    error = refusal(lambda: evaluate(command))
    assert "sweep.csv has no class_accuracy; choose the best settings by another score" in error
    assert load_checkpoint(model, "maskgit").keys() == before


def test_another_model_does_not_get_them(evaluate, model, tmp_path):
    evaluate(f"--checkpoint {model} --sweep step=2 --num_samples 20 --keep_best")
    best = load_model(model).best
    contents = load_checkpoint(model, "maskgit")
    ema = {name: value + 0.01 for name, value in contents["ema"].items()}
    del contents["best_settings"]
    other = tmp_path / "other.pt"
    save_checkpoint(other, "maskgit", {**contents, "ema": ema})
    whole = other.read_bytes()
    with pytest.raises(UserError, match="was replaced by another model meanwhile"):
        keep_best_settings(other, load_model(model).fingerprint, best)
    assert other.read_bytes() == whole


def test_the_file_of_another_program_is_refused_before_measuring(run, model, tmp_path, refused):
    foreign = tmp_path / "foreign.pth"
    run(f"--export {foreign} --checkpoint {model}")
    command = f"--dataset mnist --checkpoint_vae {model} --sweep step=2 --num_samples 20"
    error = refused(f"{command} --checkpoint {foreign} --heads 2 --keep_best")
    assert f"--keep_best: {foreign} cannot hold settings" in error
    assert not (tmp_path / "mnist" / "sweep").exists()


def test_what_differs_from_the_defaults_of_the_family_is_said():
    usual = SamplingConfig.usual_for(ModernConfig(8, 2, (4, 4)))
    program = SamplingConfig().choice_temperature  # of other families
    assert changed_options(replace(usual, choice_temperature=program), usual) == "r_temp=4.5"

"""From options to the fields of configs, and what a resumed run keeps of them."""

import json
import logging
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from commands.flags import configure, flags_of_settings, options_of
from commands.option import Resume
from commands.options import OPTIONS
from commands.parser import parse
from commands.request import Machine, Request
from commands.resume import apply_resume, class_order, run_options, take_over_options
from models.maskgit.config import TransformerConfig
from models.open import families_of
from models.sampling import SamplingConfig
from models.vqgan.config import VQGANConfig
from training.config import DistillConfig, LoopConfig, TrainingConfig, VQGANTrainingConfig
from training.run_folder import RunFolder
from training.run_record import MADE_FROM
from utils.errors import UserError
from utils.processes import Processes
from utils.records import write_record


@pytest.mark.parametrize(
    ("kind", "known"),
    [
        (TransformerConfig, {"codebook_size", "num_classes", "seq_len", "null_trained"}),
        (TrainingConfig, {"decay"}),
        (SamplingConfig, {"start_share"}),
        (VQGANConfig, {"image_channels"}),
        (LoopConfig, {"epochs", "images_per_step", "begins_at", "ends_at", "picture_at"}),
        (VQGANTrainingConfig, {"disc_channels", "disc_layers", "revive_every", "revive_below"}),
    ],
)
def test_every_field_of_a_config_has_an_option(kind, known):
    assert {field.name for field in fields(kind)} - options_of(kind).keys() == known


@pytest.mark.parametrize("family", families_of("transformer"))
def test_the_defaults_of_a_family_are_fields_of_a_config(family):
    config = family.config
    names = {field.name for kind in (TrainingConfig, SamplingConfig) for field in fields(kind)}
    assert config.usual.keys() <= names
    assert config.usual_students.keys() <= {field.name for field in fields(DistillConfig)}


def test_options_reach_their_fields():
    argv = "--train --embed_dim_t 32 --dropout_t 0.2 --depth 3 --drop-label 0.4 --betas 0.5,0.6"
    options = parse([*argv.split(), "--sched_mode", "cosine-cumulative"])
    config = configure(TransformerConfig, options, codebook_size=4, num_classes=2, seq_len=9)
    assert (config.embed_dim, config.dropout, config.depth) == (32, 0.2, 3)
    training = configure(TrainingConfig, options)
    assert (training.label_drop, training.betas) == (0.4, (0.5, 0.6))
    assert training.schedule == "cosine"
    assert configure(SamplingConfig, options).schedule == "cosine-cumulative"


RUN = RunFolder(Path("runs/here"), "mnist")


def kept(argv="--depth 3 --lr 1e-3 --n_epochs 5", stage="maskgit", mode="--train"):
    """What a run with these options has in config.json."""
    line = parse([mode, *argv.split()])
    return {**json.loads(json.dumps(run_options(line, stage))), MADE_FROM: {"images": 60_000}}


def resume(stored, argv="", stage="maskgit", mode="--train"):
    line = parse([mode, "--resume", *argv.split()])
    return take_over_options(line, stored, stage, RUN)


def test_a_resumed_run_keeps_its_options():
    stored = kept()
    assert resume(stored).depth == 3
    assert resume(stored).images is None
    assert resume(stored, "--n_epochs 7 --num_workers 4").n_epochs == 7
    assert resume(stored, "--n_epochs 7").lr == 1e-3
    for argv in ("--depth 4", "--seed 9", "--lr 1", "--dataset cifar10", "--n_epochs 4"):
        with pytest.raises(UserError, match=argv):
            resume(stored, argv)


# --- config.json may come from anybody ---

OF_BOTH = {"vqgan": "--train_vae", "maskgit": "--train"}


@pytest.mark.parametrize("stage", OF_BOTH)
def test_what_a_run_writes_is_what_it_reads(stage):
    argv = "--labels 3 4 --betas_vae 0 0.5 --attn_resolutions [] --mask-value -1 --no_wandb"
    stored = kept(argv, stage, OF_BOTH[stage])
    line = resume(stored, stage=stage, mode=OF_BOTH[stage])
    assert {name: getattr(line, name) for name in stored if name != MADE_FROM} == {
        name: value for name, value in stored.items() if name != MADE_FROM
    }


@pytest.mark.parametrize("stage", OF_BOTH)
@pytest.mark.parametrize(
    "name",
    [
        *(name for name, option in OPTIONS.items() if option.resume is Resume.FORGET),
        "haeds", "", "checksum", "train", "evaluate",
    ],
)  # fmt: skip
def test_what_no_run_keeps_is_refused_by_name(stage, name):
    """Paths to code, places to write, options of the machine, names that nobody knows."""
    stored = {**kept(stage=stage, mode=OF_BOTH[stage]), name: "/tmp/x"}
    with pytest.raises(UserError, match=f"config.json: {name!r} is not an option of this stage"):
        resume(stored, stage=stage, mode=OF_BOTH[stage])


def test_paths_to_code_and_places_to_write_are_among_them():
    forgotten = {name for name, option in OPTIONS.items() if option.resume is Resume.FORGET}
    assert {
        "features", "feature_weights", "run_name", "output_dir", "checkpoint", "images",
        "init_image", "mask_image", "device", "compile", "resume", "dry_run",
    } <= forgotten  # fmt: skip
    kept_paths = {o.name for o in OPTIONS.values() if o.is_path} - forgotten
    # Each is read as data; the folder of token caches has a test of its own.
    assert kept_paths == {
        "data_dir", "cache_dir", "checkpoint_vae", "perceptual_vgg", "remap", "init", "init_vae"
    }  # fmt: skip


def test_options_of_the_other_stage_are_refused():
    with pytest.raises(UserError, match="'lr' is not an option"):
        resume({**kept(stage="vqgan", mode="--train_vae"), "lr": 1.0}, "", "vqgan", "--train_vae")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("depth", "3"), ("depth", 0), ("depth", 2.5), ("depth", True), ("depth", None),
        ("depth", [3]), ("depth", {"a": 1}), ("depth", 2**60), ("lr", -1), ("lr", float("nan")),
        ("lr", "fast"), ("dropout_t", 1.0), ("betas", [0.5]), ("betas", 0.5), ("betas", ["0.5", 1]),
        ("betas", [[0.5, 0.5]]), ("sched_mode", "typo"), ("sampler", 3), ("dataset", "../x"),
        ("precision", "fp8"), ("no_wandb", "yes"), ("no_wandb", 1), ("labels", "3"),
        ("labels", [3]), ("data_dir", ""), ("data_dir", 3), ("num_samples", 10**12),
        ("cache_dir", ["/tmp"]),
    ],
)  # fmt: skip
def test_values_that_the_command_line_refuses_are_refused(name, value):
    with pytest.raises(UserError, match=f"config.json: --{name}[: ]") as said:
        resume({**kept(), name: value})
    assert "\n" not in str(said.value)


def test_a_planned_stage_is_checked_as_well(tmp_path):
    run = RunFolder(tmp_path / "mnist", "mnist")
    line = parse(["--train", "--resume", "--output_dir", str(tmp_path)])
    write_record(run.config, {"maskgit": {**kept(), "features": "/tmp/x.pt"}})
    with pytest.raises(UserError, match="'features' is not an option"):
        apply_resume(line)
    write_record(run.config, {"maskgit": kept()})
    assert apply_resume(line)[0].depth == 3


def test_token_caches_are_made_where_some_are_and_nowhere_else(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    stored = {**kept(), "cache_dir": str(tmp_path / "caches")}
    assert resume(stored).cache_dir is None
    assert "of the run holds no token caches and is left out" in caplog.text
    # Named by hand, below the folder of all runs, or with a cache in it.
    assert resume(stored, "--cache_dir /elsewhere").cache_dir == "/elsewhere"
    assert resume(stored, f"--output_dir {tmp_path}").cache_dir == stored["cache_dir"]
    for file in ("tokens.npy", "block_000000_471c69e71cff4694.pt"):  # also of an unfinished one
        name = "mnist-train-0123456789ab" + (".partial" if file.startswith("block") else "")
        cache = tmp_path / "caches" / name
        cache.mkdir(parents=True)
        assert resume(stored).cache_dir is None
        (cache / file).touch()
        assert resume(stored).cache_dir == stored["cache_dir"]
        (cache / file).unlink()
    above = str(tmp_path / "runs" / ".." / ".." / "x")
    assert resume({**stored, "cache_dir": above}, f"--output_dir {tmp_path}/runs").cache_dir is None


def test_nothing_is_downloaded_into_a_folder_that_config_json_names():
    machine = Machine(torch.device("cpu"), torch.float32, Processes(), compiled=False)
    line = parse(["--train"])
    stored = kept("--data_dir /etc")
    assert Request(line, machine).data().may_download
    assert not Request(resume(stored), machine).data().may_download
    assert Request(resume(stored, "--data_dir here"), machine).data().may_download
    assert resume(stored, "--download_only").data_dir == "datasets"


# --- The order of the classes ---


@pytest.mark.parametrize(
    ("made_from", "now", "expected"),
    [
        ({"class_names": ["a10", "a2"]}, ["a2", "a10"], ["a10", "a2"]),
        ({"class_names": ["cat", "dog"]}, ["dog", "zebra"], ["zebra", "dog"]),
        ({"class_names": ["cat"]}, ["dog", "zebra"], ["dog", "zebra"]),
        ({"class_names": "cat"}, ["b", "a"], ["a", "b"]),
        ({}, ["a2", "a10"], ["a10", "a2"]),  # an earlier run, which sorted them as texts
    ],
)
def test_a_run_keeps_the_order_of_its_classes(made_from, now, expected):
    assert class_order({MADE_FROM: made_from}, RUN, "maskgit", now) == expected


# --- Paths ---


@pytest.mark.parametrize("option", [*(o.flag for o in OPTIONS.values() if o.is_path), "--export"])
def test_every_path_knows_the_home_folder(monkeypatch, option):
    monkeypatch.setenv("HOME", "/home/me")
    name = option[2:]
    for argv in ([f"{option}=~/x"], [option, "~/x"]):
        assert getattr(parse(["--train", *argv]), name) == "/home/me/x"
    assert getattr(parse(["--train", option, "a/~/x"]), name) == "a/~/x"
    assert getattr(parse(["--train", option, "./~x"]), name) == "./~x"


def test_an_account_without_a_home_folder_is_told_so(monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.raises(UserError, match="'~/x': this account has no home folder; set HOME"):
        parse(["--train", "--output_dir=~/x"])


def test_every_setting_of_sampling_has_one_flag():
    known = flags_of_settings()
    for field, name in options_of(SamplingConfig).items():
        assert known.get(field, known.get(f"SamplingConfig.{field}")) == OPTIONS[name].flag, field
    assert known["guidance"] == "--cfg_w"
    assert known["logit_scale"] == "--sm_temp"

"""From options to the fields of configs, and what a resumed run keeps of them."""

import json
from dataclasses import fields
from pathlib import Path

import pytest

from commands.flags import configure, options_of
from commands.parser import parse
from commands.resume import run_options, take_over_options
from MaskGIT import MODES
from models.maskgit.config import TransformerConfig
from models.sampling import SamplingConfig
from models.vqgan.config import VQGANConfig
from training.config import LoopConfig, TrainingConfig, VQGANTrainingConfig
from utils.errors import UserError


@pytest.mark.parametrize(
    ("kind", "known"),
    [
        (TransformerConfig, {"codebook_size", "num_classes", "seq_len"}),
        (TrainingConfig, set()),
        (SamplingConfig, set()),
        (VQGANConfig, {"image_channels"}),
        (LoopConfig, {"epochs", "images_per_step"}),
        (VQGANTrainingConfig, {"disc_channels", "disc_layers", "revive_every", "revive_below"}),
    ],
)
def test_every_field_of_a_config_has_an_option(kind, known):
    assert {field.name for field in fields(kind)} - options_of(kind).keys() == known


def test_options_reach_their_fields():
    argv = "--train --embed_dim_t 32 --dropout_t 0.2 --depth 3 --drop-label 0.4 --betas 0.5,0.6"
    options = parse([*argv.split(), "--sched_mode", "cosine-cumulative"], MODES)
    config = configure(TransformerConfig, options, codebook_size=4, num_classes=2, seq_len=9)
    assert (config.embed_dim, config.dropout, config.depth) == (32, 0.2, 3)
    training = configure(TrainingConfig, options)
    assert (training.label_drop, training.betas) == (0.4, (0.5, 0.6))
    assert training.schedule == "cosine"
    assert configure(SamplingConfig, options).schedule == "cosine-cumulative"


def test_a_resumed_run_keeps_its_options():
    first = parse(["--train", "--depth", "3", "--lr", "1e-3", "--n_epochs", "5"], MODES)
    stored = json.loads(json.dumps(run_options(first, "maskgit")))
    stored["made_from"] = {"images": 60_000}

    def resume(argv):
        options = parse(["--train", "--resume", *argv.split()], MODES)
        return take_over_options(options, stored, "maskgit", Path("run"))

    assert resume("").depth == 3
    assert resume("").images is None
    assert resume("--n_epochs 7 --num_workers 4").n_epochs == 7
    assert resume("--n_epochs 7").lr == 1e-3
    for argv in ("--depth 4", "--seed 9", "--lr 1", "--dataset cifar10", "--n_epochs 4"):
        with pytest.raises(UserError, match=argv):
            resume(argv)

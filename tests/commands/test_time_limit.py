"""--minutes on the command line; the run itself is in tests/training/test_minutes.py."""

import logging
from pathlib import Path

import pytest

from commands.parser import parse
from commands.resume import run_options, take_over_options
from commands.stages import with_defaults
from commands.training_jobs import (
    TOKENIZER_SHARE,
    USING_SHARE,
    _time_limit,
    check_training,
)
from MaskGIT import main
from training.run_folder import RunFolder
from utils.errors import UserError


@pytest.mark.parametrize(
    ("modes", "shares"),
    [
        ("--train", {"train": (0, 1)}),
        ("--train --sample", {"train": (0, 1 - USING_SHARE)}),
        (
            "--train_vae --train",
            {"train_vae": (0, TOKENIZER_SHARE), "train": (TOKENIZER_SHARE, 1)},
        ),
    ],
)
def test_the_stages_share_the_time(modes, shares):
    line = parse([*modes.split(), "--minutes", "10"])
    for mode, share in shares.items():
        limits = _time_limit(line, mode)
        found = [(limits[name] - line.began) / 600 for name in ("begins_at", "ends_at")]
        assert found == pytest.approx(share)


@pytest.mark.parametrize(("minutes", "shown"), [("1", "1 minute"), ("0.5", "0.5 minutes")])
def test_the_line_about_it(minutes, shown, caplog):
    caplog.set_level(logging.INFO)
    _time_limit(parse(["--train", "--minutes", minutes]), "train")
    assert caplog.messages == [f"--minutes {minutes}: --train ends after {shown}"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("--train --n_epochs 3", "--n_epochs 3"),
        ("--train_vae --n_epochs_vae 4", "--n_epochs_vae 4"),
    ],
)
def test_a_number_of_epochs_contradicts_it(refusal, tmp_path, options, named):
    command = [*options.split(), "--minutes", "5", "--output_dir", str(tmp_path)]
    message = refusal(lambda: main(command))
    assert "--minutes 5" in message
    assert named in message


@pytest.mark.parametrize(
    ("mode", "epochs", "init"),
    [("train", "n_epochs", "init"), ("train_vae", "n_epochs_vae", "init_vae")],
)
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_a_run_with_a_time_limit_can_only_be_trained_further_in_a_new_one(mode, epochs, init, more):
    """Also with fewer epochs than the default, which nobody has given."""
    stage = {"train": "maskgit", "train_vae": "vqgan"}[mode]
    stored = run_options(with_defaults(parse([f"--{mode}", "--minutes", "5"])), stage)
    count = stored[epochs] + more
    line = with_defaults(parse([f"--{mode}", "--resume", f"--{epochs}", str(count)]))
    line = take_over_options(line, stored, stage, RunFolder(Path("runs/a"), "mnist"))
    way_out = rf"leave --{epochs} {count} out, or start another --run_name \(--{init} takes"
    with pytest.raises(UserError, match=f"--minutes 5 decides .*: {way_out}"):
        check_training(line, stage, {"train": "checkpoint", "train_vae": "checkpoint_vae"}[mode])


def test_a_distillation_has_no_time_limit_and_never_gets_fewer_epochs():
    stored = run_options(with_defaults(parse("--distill 1 --minutes 5")), "student")
    line = with_defaults(parse("--distill 1 --resume --n_epochs_distill 1"))
    with pytest.raises(UserError, match=r"started with .* take a larger number, or start another"):
        take_over_options(line, stored, "student", RunFolder(Path("runs/a"), "mnist"))

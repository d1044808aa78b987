"""--minutes on the command line; the run itself is in tests/training/test_minutes.py."""

import pytest

from commands.parser import parse
from commands.training_jobs import (
    TOKENIZER_SHARE,
    USING_SHARE,
    _time_limit,
    check_training,
)
from MaskGIT import main
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


def test_a_run_with_a_time_limit_can_only_be_trained_further_in_a_new_one():
    line = parse("--train --resume --n_epochs 3 --n_epochs_vae 4").replace(minutes=5.0)  # the run's
    with pytest.raises(UserError, match=r"--minutes 5 .* leave --n_epochs 3 out, .* --init$"):
        check_training(line, "maskgit", "checkpoint")
    with pytest.raises(UserError, match=r"leave --n_epochs_vae 4 out, .* --init_vae$"):
        check_training(line, "vqgan", "checkpoint_vae")

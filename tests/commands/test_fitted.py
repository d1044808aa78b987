"""The defaults of a training on a user's own images."""

from functools import partial

import numpy as np
import pytest
from PIL import Image

from commands.fitted import tokenizer_defaults, transformer_defaults
from commands.options import OPTIONS
from MaskGIT import main


@pytest.mark.parametrize("count", [1, 7, 50, 300, 1_700, 3_000, 30_000, 300_000])
def test_an_epoch_has_steps_enough_and_larger_sets_longer_runs(count):
    for defaults, most, batch, epochs in (
        (tokenizer_defaults, 128, "batch_size_vae", "n_epochs_vae"),
        (lambda n: transformer_defaults(n, "adamw", False, 256, 10), 256, "batch_size", "n_epochs"),
        (lambda n: transformer_defaults(n, "muon", True, 64, 6), 64, "batch_size", "n_epochs"),
    ):
        values, more = defaults(count), defaults(4 * count)
        per_epoch = max(1, count // values[batch])
        assert per_epoch >= min(18, count // 16)
        assert values[batch] <= most
        assert values[epochs] >= 1
        assert more[epochs] * max(1, 4 * count // more[batch]) >= 0.9 * values[epochs] * per_epoch
        assert values.keys() <= OPTIONS.keys()


def test_a_family_keeps_its_rate_and_a_small_set_has_no_larger_model_than_it():
    modern = partial(
        transformer_defaults, optimizer="muon", has_rate=True, most_images=64, most_blocks=5
    )
    assert modern(9_000) == modern(9_000) | {"depth": 5, "batch_size": 64}
    assert "lr" not in modern(9_000)
    assert transformer_defaults(300, "adamw", False, 256, 10)["lr"] == 1e-3
    assert "depth" not in modern(90_000)
    assert modern(300)["depth"] == 4


@pytest.fixture
def dry_run(tmp_path, capsys):
    images = tmp_path / "images"
    images.mkdir()
    for number in range(24):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(images / f"{number}.png")

    def run(options):
        main(
            f"--train_vae --dry_run --dataset folder --data_dir {images} --size 8 --channels 32 "
            f"--ch_mult 1 --num_res_blocks 1 --perceptual_weight 0 --disc_weight 0 "
            f"--output_dir {tmp_path}/runs {options}".split()
        )
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize(("family", "rate"), [("maskgit", "0.001"), ("halton", "0.0001")])
def test_a_family_with_a_rate_trains_own_images_with_it(dry_run, family, rate):
    assert f"\nlr                     {rate}" in dry_run(f"--train --transformer {family}")


def test_they_are_said_and_what_is_given_wins(dry_run):
    out = dry_run("--n_epochs_vae 3")
    (line,) = [one for one in out.splitlines() if one.startswith("defaults for")]
    assert "--batch_size_vae 8" in line
    assert "--n_epochs_vae" not in line
    assert "of 8 images" in out
    assert "stage 1 takes" in out


def test_with_a_time_limit_the_speed_decides_the_epochs(dry_run):
    assert "--n_epochs_vae" not in dry_run("--minutes 3").split("defaults for")[1].splitlines()[0]

"""The program as a user runs it: real Fashion-MNIST, the bundled tokenizer, real processes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import REAL_FASHION_MNIST, without_logs, write_real_subset

ROOT = Path(__file__).parent.parent
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not REAL_FASHION_MNIST.is_dir(), reason="needs Debian's package dataset-fashion-mnist"
    ),
]


@pytest.fixture(scope="module")
def real_subset(tmp_path_factory):
    """The first 200 training and 40 test images of Fashion-MNIST, in its own format."""
    return write_real_subset(tmp_path_factory.mktemp("real"), 200, 40)


def program(arguments, folder):
    command = [sys.executable, str(ROOT / "MaskGIT.py"), *arguments.split(), "--no_wandb"]
    done = subprocess.run(
        [*command, "--output_dir", str(folder)], capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    assert without_logs(done.stderr) == ""
    return done.stdout


def test_train_and_sample(real_subset, tmp_path):
    train = (
        f"--train --dataset fashionmnist --data_dir {real_subset} --batch_size 20 --n_epochs 8 "
        "--lr 2e-3 --depth 2 --sample_and_save_freq 4"
    )
    out = program(f"{train} --sample --num_samples 20 --labels 0,8", tmp_path)
    assert "512 codes, 8 x 8 tokens" in out
    assert out.count("epoch ") == 8

    assert (tmp_path / "fashionmnist" / "curves.png").is_file()
    lines = (tmp_path / "fashionmnist" / "metrics.jsonl").read_text().splitlines()
    rows = map(json.loads, lines)
    losses = {row["step"]: row["train/loss"] for row in rows if "train/loss" in row}
    assert losses[80] < losses[20] - 0.3

    folder = tmp_path / "fashionmnist" / "samples"
    with np.load(folder / "samples.npz") as stored:
        images, labels = stored["arr_0"], stored["arr_1"]
    assert images.shape == (20, 32, 32, 1)
    assert labels.tolist() == [0, 8] * 10
    assert images.std(axis=(1, 2, 3)).min() > 5
    assert len({image.tobytes() for image in images}) == 20
    assert (folder / "grid.png").is_file()
    assert (folder / "maskgit_step_0000080.png").is_file()

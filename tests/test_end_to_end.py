"""The program as a user runs it: real Fashion-MNIST, the bundled tokenizer, real processes."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import REAL_FASHION_MNIST, write_real_subset

from utils.checkpoint import load_checkpoint

ROOT = Path(__file__).parent.parent
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not REAL_FASHION_MNIST.is_dir(), reason="needs Debian's package dataset-fashion-mnist"
    ),
]


@pytest.fixture(scope="module")
def real_subset(tmp_path_factory):
    """The first 400 training and 100 test images of Fashion-MNIST, in its own format."""
    return write_real_subset(tmp_path_factory.mktemp("real"), 400, 100)


def program(arguments, folder):
    command = [sys.executable, str(ROOT / "MaskGIT.py"), *arguments.split(), "--no_wandb"]
    return subprocess.Popen(
        [*command, "--output_dir", str(folder)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder,
    )  # fmt: skip


def finished(arguments, folder):
    with program(arguments, folder) as process:
        out, error = process.communicate(timeout=600)
    assert process.returncode == 0, error
    assert error == ""
    return out


def rows(folder):
    lines = (folder / "fashionmnist" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def weights(folder):
    return load_checkpoint(folder / "fashionmnist" / "MaskGIT_fashionmnist.pt", "maskgit")["ema"]


def test_train_stop_resume_sample(real_subset, tmp_path):
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    train = (
        f"--train --dataset fashionmnist --data_dir {real_subset} --batch_size 20 --n_epochs 4 "
        f"--lr 2e-3 --depth 2 --sample_and_save_freq 2 --cache_dir {tmp_path}/tokens"
    )
    straight.mkdir()
    stopped.mkdir()
    out = finished(train, straight)
    assert "512 codes, 8 x 8 tokens" in out
    assert out.count("epoch ") == 4

    with program(train, stopped) as process:
        while not (stopped / "fashionmnist" / "metrics.jsonl").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        told, _ = process.communicate(timeout=300)
    assert process.returncode == 143
    assert "continue with --resume" in told
    finished(f"{train} --resume", stopped)

    # Stopped and resumed, the run is the one that was never stopped, bit for bit.
    final, resumed = weights(straight), weights(stopped)
    assert all(value.equal(resumed[name]) for name, value in final.items())
    for kept in (straight, stopped):
        losses = {row["step"]: row["train/loss"] for row in rows(kept) if "train/loss" in row}
        assert losses[80] < losses[20] - 0.3
    assert rows(straight)[-1]["val/loss"] == rows(stopped)[-1]["val/loss"]

    finished("--sample --dataset fashionmnist --num_samples 20 --labels 0,8", straight)
    folder = straight / "fashionmnist" / "samples"
    with np.load(folder / "samples.npz") as stored:
        images, labels = stored["arr_0"], stored["arr_1"]
    assert images.shape == (20, 32, 32, 1)
    assert labels.tolist() == [0, 8] * 10
    assert images.std(axis=(1, 2, 3)).min() > 5
    assert len({image.tobytes() for image in images}) == 20
    assert (folder / "grid.png").is_file()
    assert (folder / "maskgit_step_0000080.png").is_file()

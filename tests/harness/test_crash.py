"""Kills, full disks and closed folders, met by the real command line (see crash.py)."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REAL_FASHION_MNIST, TRAIN_TINY

ROOT = Path(__file__).parents[2]
LIMITED = """
import resource, sys
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
import MaskGIT
MaskGIT.main(sys.argv[2:])
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not REAL_FASHION_MNIST.is_dir(), reason="needs Debian's package dataset-fashion-mnist"
)
def test_killed_at_random_moments_and_resumed_equals_undisturbed():
    command = [sys.executable, "tests/harness/crash.py", "--kills", "5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for kind in ("training", "sampling"):
        (told,) = re.findall(rf"{kind}: (\d+) kills, (\d+) inside a write", done.stdout)
        assert int(told[0]) >= 5
        assert int(told[1]) >= 1


@pytest.fixture
def program(data_dir, tokenizer_file, tmp_path):
    """Run the command line in a process whose files cannot grow beyond a size."""

    def call(limit: int, arguments: str) -> subprocess.CompletedProcess[str]:
        common = f"--data_dir {data_dir} --output_dir {tmp_path} --no_wandb --dataset mnist"
        return subprocess.run(
            [sys.executable, "-c", LIMITED, str(limit), *common.split(), *arguments.split()],
            cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    return call


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a run that could not write."""
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("MaskGIT.py: error: cannot write")
    return done.stderr


@pytest.mark.slow
def test_a_full_disk_while_training(program, run, tokenizer_file, tmp_path):
    train = f"--train {TRAIN_TINY} --checkpoint_vae {tokenizer_file}"
    run(train)
    models = {path: path.read_bytes() for path in (tmp_path / "mnist").glob("*.pt")}
    # The unpacked dataset fits; a checkpoint does not.
    told = refused(program(45_000, f"{train} --resume --n_epochs 3"))
    assert "File too large; what was there before is intact" in told
    assert models == {path: path.read_bytes() for path in (tmp_path / "mnist").glob("*.pt")}
    run(f"{train} --resume --n_epochs 3")
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.slow
def test_a_full_disk_while_sampling(program, trained, tmp_path):
    sample = f"--sample --checkpoint {trained / 'MaskGIT_mnist.pt'} --num_samples 12 --seed"
    assert program(10**9, f"{sample} 1").returncode == 0
    earlier = contents(tmp_path)
    for limit in (8_000, 13_000):  # less than a block; a block, but not the .npz
        refused(program(limit, f"{sample} 2"))
        now = contents(tmp_path)
        assert earlier == {name: now[name] for name in earlier}
    assert program(10**9, f"{sample} 2").returncode == 0
    assert earlier.keys() == contents(tmp_path).keys()
    assert earlier != contents(tmp_path)


@pytest.mark.parametrize("mode", ["--train", "--sample"])
def test_a_folder_that_cannot_be_written(run, trained, tokenizer_file, capsys, mode):
    checkpoint = f"--checkpoint {trained / 'MaskGIT_mnist.pt'}"
    files = checkpoint if mode == "--sample" else f"{TRAIN_TINY} --checkpoint_vae {tokenizer_file}"
    with pytest.raises(SystemExit) as stop:
        run(f"{mode} {files} --output_dir /proc/nowhere")
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "cannot write to the folder /proc/nowhere" in error

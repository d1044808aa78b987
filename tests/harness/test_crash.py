"""Kills, full disks and closed folders, met by the real command line (see crash.py)."""

import re
import resource
from pathlib import Path

import pytest
from conftest import REAL_FASHION_MNIST, TRAIN_TINY
from crash import crash


@pytest.mark.slow
@pytest.mark.skipif(
    not REAL_FASHION_MNIST.is_dir(), reason="needs Debian's package dataset-fashion-mnist"
)
def test_killed_at_random_moments_and_resumed_equals_undisturbed(capsys):
    crash(kills=5, seed=0)
    output = capsys.readouterr().out
    for kind in ("training", "sampling"):
        (said,) = re.findall(rf"{kind}: (\d+) kills, (\d+) inside a write", output)
        assert int(said[0]) >= 5
        assert int(said[1]) >= 1


@pytest.fixture
def refused(run, capsys):
    """Run the command line with files that cannot grow beyond a size; returns its one line."""

    def call(limit: int, arguments: str) -> str:
        usual, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
        try:
            with pytest.raises(SystemExit) as stop:
                run(arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (usual, most))
        error = capsys.readouterr().err
        assert stop.value.code == 2, error
        assert error.count("\n") == 1, error
        assert error.startswith("MaskGIT.py: error: cannot write")
        return error

    return call


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_full_disk_while_training(refused, run, tokenizer_file, tmp_path):
    train = f"--train {TRAIN_TINY} --checkpoint_vae {tokenizer_file}"
    run(train)
    models = {path: path.read_bytes() for path in (tmp_path / "mnist").glob("*.pt")}
    # The unpacked dataset fits; a checkpoint does not.
    said = refused(45_000, f"{train} --resume --n_epochs 3")
    assert "File too large; what was there before is intact" in said
    assert models == {path: path.read_bytes() for path in (tmp_path / "mnist").glob("*.pt")}
    run(f"{train} --resume --n_epochs 3")
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.slow
def test_a_full_disk_while_sampling(refused, run, trained, tmp_path):
    sample = f"--sample --checkpoint {trained / 'MaskGIT_mnist.pt'} --num_samples 12 --seed"
    run(f"{sample} 1")
    earlier = contents(tmp_path)
    for limit in (8_000, 13_000):  # less than a block; a block, but not the .npz
        refused(limit, f"{sample} 2")
        now = contents(tmp_path)
        assert earlier == {name: now[name] for name in earlier}
    run(f"{sample} 2")
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

"""Sampling that is interrupted, shared, or meets a full disk."""

import numpy as np
import pytest

from data import blocks as sample_blocks
from data.blocks import missing_blocks, open_blocks, publish_blocks, write_blocks
from MaskGIT import main
from utils.errors import UserError
from utils.files import exclusive_lock


def block(index, size=4):
    return np.full((size, 8, 8, 1), index, np.uint8)


def test_what_is_missing_is_told(tmp_path):
    open_blocks(tmp_path / "p", {"seed": 0})
    write_blocks(tmp_path / "p", [2, 5], iter([block(2), block(5)]))
    assert missing_blocks(tmp_path / "p", 8) == [0, 1, 3, 4, 6, 7]


def test_blocks_stay_for_the_same_images_alone(tmp_path):
    for identity, kept in (({"seed": 0}, 0), ({"seed": 0}, 1), ({"seed": 1}, 0)):
        open_blocks(tmp_path / "p", identity)
        assert len(missing_blocks(tmp_path / "p", 1)) == 1 - kept
        write_blocks(tmp_path / "p", [0], iter([block(0)]))


def test_a_torn_block_is_named(tmp_path):
    open_blocks(tmp_path / "p", {})
    write_blocks(tmp_path / "p", [0, 1], iter([block(0), block(1)]))
    torn = tmp_path / "p" / "block_000001.npy"
    torn.write_bytes(torn.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"block_000001\.npy is damaged"):
        publish_blocks(tmp_path / "p", tmp_path, [0] * 8, 4, 10)
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


@pytest.fixture
def sample(trained, tmp_path):
    """Sample 11 images in blocks of 3; gives all files but the lock, by name."""

    def call(options=""):
        main(
            f"--sample --checkpoint {trained / 'MaskGIT_mnist.pt'} --output_dir {tmp_path} "
            f"--batch_size 3 --num_samples 11 {options}".split()
        )
        return contents(tmp_path)

    return call


def contents(folder):
    samples = folder / "mnist" / "samples"
    files = {str(p.relative_to(samples)): p for p in samples.rglob("*") if p.is_file()}
    arrays = np.load(files.pop("samples.npz"))
    found = {name: path.read_bytes() for name, path in files.items() if name != ".lock"}
    return {**found, "arr_0": arrays["arr_0"].tobytes(), "arr_1": arrays["arr_1"].tobytes()}


def interrupted(monkeypatch, name, after):
    """Let a function of data.blocks fail as a kill would, at its call after so many."""
    real, calls = getattr(sample_blocks, name), []

    def failing(*arguments, **options):
        calls.append(1)
        if len(calls) > after:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(sample_blocks, name, failing)


@pytest.mark.parametrize(
    ("step", "after"), [("atomic_write", 2), ("write_npz", 0), ("save_grid", 0)]
)
def test_an_interrupted_sampling_goes_on_and_loses_nothing(
    sample, tmp_path, monkeypatch, capsys, step, after
):
    earlier = sample("--seed 1")
    with monkeypatch.context() as patch:
        interrupted(patch, step, after)
        with pytest.raises(SystemExit, match="130"):
            sample()
    now = contents(tmp_path)
    assert earlier == {name: now[name] for name in earlier}
    capsys.readouterr()
    continued = sample()
    left = 2 if step == "atomic_write" else 0
    assert f"sampling continues: {left} of 4 blocks" in capsys.readouterr().out
    assert continued == sample()
    assert continued != earlier


def test_a_kill_between_the_two_renames_of_the_images(sample, tmp_path, monkeypatch):
    straight = sample()
    folder = tmp_path / "mnist" / "samples"
    with monkeypatch.context() as patch:
        interrupted(patch, "save_grid", 0)
        with pytest.raises(SystemExit, match="130"):
            sample()
    (folder / "images").rename(folder / "partial" / "replaced")
    assert sample() == straight


def test_two_samplings_do_not_mix(sample, tmp_path, capsys):
    sample()
    lock = tmp_path / "mnist" / "samples" / ".lock"
    with exclusive_lock(lock, "taken"), pytest.raises(SystemExit) as stop:
        sample()
    assert stop.value.code == 2
    assert "another job is sampling" in capsys.readouterr().err

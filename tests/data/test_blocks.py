"""Sampling that is interrupted, shared, or meets a full disk."""

import logging

import numpy as np
import pytest
from PIL import Image

import data.blocks
import data.publish
from data.blocks import BlockFolder
from data.publish import BESIDE, publish_blocks
from MaskGIT import main
from utils.errors import UserError
from utils.files import exclusive_lock


def block(index, size=4):
    return np.full((size, 8, 8, 1), index, np.uint8)


def made(folder, count, identity=None, value=0):
    """The folder of a sampling whose blocks are all there."""
    blocks = BlockFolder(folder / BESIDE, identity or {"seed": 0})
    for index in blocks.missing(count, "sampling"):
        blocks.write(index, block(value + index))
    return blocks


def test_what_is_missing_is_told(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    blocks = BlockFolder(tmp_path / "made", {"seed": 0})
    assert blocks.missing(8, "sampling") == list(range(8))
    assert caplog.messages == []
    for index in (2, 5):
        blocks.write(index, block(index))
    assert blocks.missing(8, "sampling") == [0, 1, 3, 4, 6, 7]
    assert caplog.messages == ["sampling continues, blocks left: 6 of 8"]
    assert (blocks.read(5) == 5).all()


def test_blocks_stay_for_the_same_images_alone(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    for identity, kept in (({"seed": 0}, 0), ({"seed": 0}, 1), ({"seed": 1}, 0)):
        blocks = BlockFolder(tmp_path / "made", identity)
        assert len(blocks.missing(1, "sampling")) == 1 - kept
        blocks.write(0, block(0))
    assert caplog.messages[-1] == "blocks of other settings are deleted: 1"


def test_a_flip_in_a_block_makes_it_again_or_changes_nothing(tmp_path, caplog):
    _, path = sorted(made(tmp_path, 2).path.iterdir())
    whole, said = path.read_bytes(), 0
    for bit in range(0, 8 * len(whole), 17):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        caplog.clear()
        assert (made(tmp_path, 2).read(1) == 1).all()
        is_said = caplog.messages == ["damaged blocks, made again: 1 of 2"]
        assert (path.read_bytes() == whole) if is_said else (path.read_bytes() == content)
        said += is_said
    assert said > 0


def test_a_block_in_the_place_of_another_is_made_again(tmp_path):
    first, second = sorted(made(tmp_path, 2).path.iterdir())
    second.write_bytes(first.read_bytes())
    assert BlockFolder(tmp_path / BESIDE, {"seed": 0}).missing(2, "sampling") == [1]


def test_a_block_under_the_name_of_another_identity_is_made_again(tmp_path):
    (zero,) = made(tmp_path, 1, {"seed": 0}).path.iterdir()
    content = zero.read_bytes()
    (one,) = made(tmp_path, 1, {"seed": 1}).path.iterdir()
    one.write_bytes(content)
    assert BlockFolder(tmp_path / BESIDE, {"seed": 1}).missing(1, "sampling") == [0]


def test_a_block_that_is_damaged_meanwhile_is_named(tmp_path):
    blocks = made(tmp_path, 2)
    _, torn = sorted(blocks.path.iterdir())
    torn.write_bytes(torn.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"block_000001_\w+\.pt: .*makes it again"):
        publish_blocks(blocks, [0] * 8, 4, 10)
    assert [path.name for path in tmp_path.iterdir()] == ["partial"]


def publish(folder, first, count, value):
    """Publish blocks of 4 images of one value; gives the names of the pictures and the arrays."""
    blocks = made(folder, count // 4, {"first": first}, value)
    publish_blocks(blocks, [value] * count, 4, 10, first)
    with np.load(folder / "samples.npz") as stored:
        assert sorted(stored.files) == ["arr_0", "arr_1"]
        shown = stored["arr_0"][:, 0, 0, 0].tolist()
        pictures = sorted((folder / "images").iterdir())
        assert [np.asarray(Image.open(p))[0, 0] for p in pictures] == shown
        return [int(p.stem) for p in pictures], shown, stored["arr_1"].tolist()


def test_a_sampling_replaces_an_earlier_one_and_its_film(tmp_path):
    assert publish(tmp_path, 4, 8, value=3) == (list(range(4, 12)), [3] * 4 + [4] * 4, [3] * 8)
    (tmp_path / "steps.png").touch()
    (tmp_path / "partial" / "replaced" / "images").mkdir(parents=True)  # of a kill after all of it
    (tmp_path / "partial" / "images").mkdir()
    (tmp_path / "partial" / "images" / "000099.png").touch()  # while other settings were deleted
    (tmp_path / "partial" / "steps.png").touch()
    assert publish(tmp_path, 0, 4, value=5) == ([0, 1, 2, 3], [5] * 4, [5] * 4)
    assert not (tmp_path / "steps.png").exists()
    assert not (tmp_path / "partial").exists()
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.height == 66 + 2  # four images in a row


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
    """Let a function fail as a kill would, at its call after so many."""
    module = data.blocks if name == "save_checkpoint" else data.publish
    real, calls = getattr(module, name), []

    def failing(*arguments, **options):
        calls.append(1)
        if len(calls) > after:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(module, name, failing)


@pytest.mark.parametrize(
    ("step", "after"), [("save_checkpoint", 2), ("write_npz", 0), ("save_grid", 0)]
)
def test_an_interrupted_sampling_goes_on_and_loses_nothing(
    sample, tmp_path, monkeypatch, capsys, step, after
):
    earlier = sample("--seed 1 --save_steps")
    with monkeypatch.context() as patch:
        interrupted(patch, step, after)
        with pytest.raises(SystemExit, match="130"):
            sample()
    now = contents(tmp_path)
    assert earlier == {name: now[name] for name in earlier}
    capsys.readouterr()
    continued = sample()
    left = 2 if step == "save_checkpoint" else 0
    assert f"sampling continues, blocks left: {left} of 4" in capsys.readouterr().out
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
    with monkeypatch.context() as patch:
        interrupted(patch, "save_grid", 0)
        with pytest.raises(SystemExit, match="130"):
            sample("--seed 1")  # another one, which deletes what is of the first
    now = contents(tmp_path)
    assert straight == {name: now[name] for name in straight}


def test_two_samplings_do_not_mix(sample, refusal, tmp_path):
    sample()
    lock = tmp_path / "mnist" / "samples" / ".lock"
    with exclusive_lock(lock, "taken"):
        assert "another job is sampling" in refusal(sample)


def test_the_film_is_published_with_the_samples(sample, tmp_path, monkeypatch):
    earlier = sample("--save_steps")
    with monkeypatch.context() as patch:
        interrupted(patch, "write_npz", 0)
        with pytest.raises(SystemExit, match="130"):
            sample("--seed 1 --save_steps")
    now = contents(tmp_path)
    assert earlier == {name: now[name] for name in earlier}
    assert sample("--seed 1 --save_steps")["steps.gif"] != earlier["steps.gif"]


def test_the_film_of_an_interrupted_sampling_is_not_published_with_another(
    sample, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        interrupted(patch, "write_npz", 0)
        with pytest.raises(SystemExit, match="130"):
            sample("--seed 1 --save_steps")
    assert (tmp_path / "mnist" / "samples" / "partial" / "steps.gif").exists()
    assert "steps.gif" not in sample()


def test_parts_of_the_command_line_make_the_images_of_the_whole(sample):
    whole, part = sample(), sample("--num_samples 7 --first_image 4")
    size = len(whole["arr_0"]) // 11
    assert part["arr_0"] == whole["arr_0"][4 * size :]
    names = {f"images/{index:06d}.png" for index in range(4, 11)}
    assert {name for name in part if name.startswith("images")} == names

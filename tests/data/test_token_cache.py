"""The token cache: made once, never stale, never half, never damaged unnoticed."""

import errno
import hashlib
import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from children import exit_code, fork
from PIL import Image
from tiny_stages import Images

from data import token_cache as cache
from data.images import FileImages, ImageDataset, Source
from data.token_cache import cached_tokens, find_tokens
from data.token_set import DeviceTokens
from utils import checkpoint
from utils.errors import UserError
from utils.files import exclusive_lock

L = 4


def encode(pixels):
    """Each column's first pixel is its token."""
    return pixels[:, 0, 0, :].long()


def make(images, folder, encode=encode, codes=30, split="train", **identity):
    name = {"dataset": "toy", **identity}
    return cached_tokens(
        images, split, encode, L, name, folder, codebook_size=codes,
        batch_size=4, num_workers=0,
    )  # fmt: skip


def test_tokens_and_labels_of_every_image(tmp_path):
    result = make(Images(), tmp_path)
    assert result.tokens.shape == (1, 30, L)
    assert result.tokens.dtype == np.uint16
    assert result.tokens[0, :, 0].tolist() == list(range(30))
    assert result.labels.tolist() == [i % 7 for i in range(30)]


def test_tokens_of_a_large_codebook_have_32_bits(tmp_path):
    def encode_large(pixels):
        return encode(pixels) + 69_970

    result = make(Images(), tmp_path, encode_large, codes=70_000)
    assert result.tokens.dtype == np.uint32
    taken = DeviceTokens(result, torch.device("cpu")).take(np.array([29, 0]))
    assert taken.tolist() == [[69_999, 69_970, 69_970, 69_970], [69_970] * 4]
    (manifest,) = tmp_path.glob("*/manifest.json")
    assert json.loads(manifest.read_text())["dtype"] == "uint32"


def test_every_view_is_encoded_once(tmp_path):
    result = make(Images(num_views=2), tmp_path)
    assert result.tokens[0, 5].tolist() == [5, 0, 0, 0]
    assert result.tokens[1, 5].tolist() == [0, 0, 0, 5]
    assert result.tokens[:, 5].tolist() == [[5, 0, 0, 0], [0, 0, 0, 5]]


def test_several_findings_are_kept(tmp_path):
    result = make(Images(findings=True), tmp_path)
    assert result.labels[:2].tolist() == [[0, 1, 0], [1, 1, 0]]


def test_a_finished_cache_is_used(tmp_path):
    make(Images(), tmp_path)
    again = Images()
    make(again, tmp_path)
    assert again.read == []


@pytest.mark.parametrize(
    ("images", "identity"),
    [
        (Images(fingerprint="v2"), {}),
        (Images(), {"split": "validation"}),
        (Images(), {"tokenizer": "other"}),
        (Images(num_views=2), {}),
    ],
)
def test_whatever_tokens_depend_on_makes_another_cache(tmp_path, images, identity):
    make(Images(), tmp_path)
    make(images, tmp_path, **identity)
    assert set(images.read) == set(range(30))


@pytest.fixture
def unfinished(tmp_path, monkeypatch):
    """A cache in writing, stopped at image 21: two blocks of 8 images are on the disk."""
    monkeypatch.setattr(cache, "BLOCK", 8)

    class Failing(Images):
        def __getitem__(self, index):
            if index == 21:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    with pytest.raises(KeyboardInterrupt):
        make(Failing(), tmp_path)
    (folder,) = tmp_path.glob("*.partial")
    return folder


@pytest.mark.usefixtures("unfinished")
def test_an_interrupted_cache_goes_on_where_it_stopped(tmp_path):
    assert not any(p.name.startswith("toy") and p.suffix != ".partial" for p in tmp_path.iterdir())
    rest = Images()
    result = make(rest, tmp_path)
    assert rest.read == list(range(16, 30))
    assert result.tokens[0, :, 0].tolist() == list(range(30))
    assert result.labels.tolist() == [i % 7 for i in range(30)]


def test_blocks_of_another_size_are_not_taken_for_these(unfinished, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "BLOCK", 5)
    images = Images()
    result = make(images, tmp_path)
    assert images.read == list(range(30))
    assert result.tokens[0, :, 0].tolist() == list(range(30))
    assert not unfinished.exists()


def cache_folder(folder: Path) -> Path:
    (found,) = (path for path in folder.iterdir() if path.is_dir())
    return found


@pytest.mark.parametrize("name", ["tokens.npy", "labels.npy", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "delete"])
def test_damage_is_noticed(tmp_path, name, damage):
    make(Images(), tmp_path)
    path = cache_folder(tmp_path) / name
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "cut":
        path.write_bytes(content[:-3])
    else:
        path.unlink()
    with pytest.raises(UserError, match=r"token cache .* is damaged .*delete"):
        make(Images(), tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "3", "{}", '{"sha256": 3}', "[" * 100_000])
def test_a_manifest_of_anything_else_is_damage(tmp_path, text):
    make(Images(), tmp_path, tokenizer="x")
    (cache_folder(tmp_path) / "manifest.json").write_text(text)
    assert find_tokens(tmp_path, "toy", "train", "x", ("a", "b")) is None
    with pytest.raises(UserError, match=r"token cache .* is damaged .*delete"):
        make(Images(), tmp_path, tokenizer="x")


def without_labels(folder, sums):
    del sums["labels.npy"]


def with_more_files(folder, sums):
    (folder / "more.npy").write_bytes(b"more")
    sums["more.npy"] = ""


def with_float_labels(folder, sums):
    np.save(folder / "labels.npy", np.zeros(30))


def with_wide_findings(folder, sums):
    np.save(folder / "labels.npy", np.zeros((30, 3), np.int64))


def with_too_few_labels(folder, sums):
    np.save(folder / "labels.npy", np.zeros(29, np.int64))


def with_signed_tokens(folder, sums):
    np.save(folder / "tokens.npy", np.zeros((1, 30, L), np.int16))


def with_short_images(folder, sums):
    np.save(folder / "tokens.npy", np.zeros((1, 30, L - 1), np.uint16))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without_labels, "manifest.json does not match"),
        (with_more_files, "manifest.json does not match"),
        (with_float_labels, "labels of type float64"),
        (with_wide_findings, "labels of type int64"),
        (with_too_few_labels, "tokens of shape"),
        (with_signed_tokens, "tokens of shape"),
        (with_short_images, "tokens of shape"),
    ],
)
def test_a_cache_whose_sums_are_right_but_not_what_they_are_of_is_refused(tmp_path, change, said):
    make(Images(), tmp_path)
    folder = cache_folder(tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    change(folder, manifest["sha256"])
    for name in manifest["sha256"]:
        manifest["sha256"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=rf"token cache .* is damaged \({said}.*delete"):
        make(Images(), tmp_path)


def test_a_cache_in_the_place_of_another_is_refused(tmp_path):
    make(Images(), tmp_path)
    one = cache_folder(tmp_path)
    make(Images(fingerprint="v2"), tmp_path)
    (other,) = (path for path in tmp_path.iterdir() if path.is_dir() and path != one)
    shutil.rmtree(one)
    other.rename(one)
    with pytest.raises(UserError, match=r"is damaged \(manifest\.json does not match"):
        make(Images(), tmp_path)


def test_a_cache_of_somebody_else_is_not_called_damaged(tmp_path, monkeypatch):
    make(Images(), tmp_path)
    refuse = Mock(side_effect=PermissionError(errno.EACCES, "Permission denied", "tokens.npy"))
    monkeypatch.setattr("data.token_cache.file_digest", refuse)
    with pytest.raises(UserError, match=r"^cannot read tokens\.npy: Permission denied$"):
        make(Images(), tmp_path)


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def spoil_block(unfinished: Path, number: int) -> None:
    """Flip a bit of the plain data in a block."""
    (path,) = unfinished.glob(f"block_{number:06d}_*")
    flip(path, path.read_bytes().index(b"kind"))


def finished(folder: Path) -> list[int]:
    """Finish the cache, whose contents must be right; gives the images that it read."""
    rest = Images()
    result = make(rest, folder.parent)
    assert result.tokens[0].tolist() == [[i, 0, 0, 0] for i in range(30)]
    assert result.labels.tolist() == [i % 7 for i in range(30)]
    return rest.read


@pytest.mark.parametrize(("number", "again"), [(0, range(8)), (1, range(8, 16))])
def test_what_a_flip_spoils_is_encoded_again(unfinished, number, again, caplog):
    spoil_block(unfinished, number)
    caplog.set_level(logging.INFO)
    assert finished(unfinished) == [*again, *range(16, 30)]
    assert "damaged blocks, made again: 1 of 2" in caplog.messages
    assert "tokenizing toy (train) continues, blocks left: 3 of 4" in caplog.messages


def test_a_flip_before_the_end_is_never_sealed(unfinished, tmp_path):
    def stop_late(pixels):
        if pixels[-1, 0, 0, 0] == 29:
            spoil_block(unfinished, 0)
        return encode(pixels)

    with pytest.raises(UserError, match=r"block_000000_\w+.pt.*same command makes it"):
        make(Images(), tmp_path, stop_late)
    assert finished(unfinished) == list(range(8))


def test_a_kill_after_the_last_step_loses_nothing(tmp_path):
    make(Images(), tmp_path)
    folder = cache_folder(tmp_path)
    (partial := folder.with_name(f"{folder.name}.partial")).mkdir()
    images = Images()
    make(images, folder.parent)
    assert images.read == []
    assert not partial.exists()
    assert sorted(p.name for p in folder.iterdir()) == ["labels.npy", "manifest.json", "tokens.npy"]


@pytest.fixture
def writer(tmp_path, caplog):
    """A thread that writes the cache. It stops at the third batch until `end` is called."""
    goes_on, stops = threading.Event(), threading.Event()
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(cache, "BLOCK", 4)
    caplog.set_level("INFO")

    def slow(pixels):
        if pixels[0, 0, 0, 0] == 8:
            assert goes_on.wait(60)
            if stops.is_set():
                raise InterruptedError
        return encode(pixels)

    def write():
        with suppress(InterruptedError):
            make(Images(), tmp_path, slow)

    def end(in_the_middle: bool) -> None:
        """Let the writer end as soon as another one waits for it."""

        def when_somebody_waits(record) -> bool:
            if "waiting for it" in record.getMessage():
                if in_the_middle:
                    stops.set()
                goes_on.set()
            return True

        caplog.handler.addFilter(when_somebody_waits)

    thread = threading.Thread(target=write)
    thread.start()
    while not list(tmp_path.glob("*.partial/block_*1_*.pt")):
        assert thread.is_alive()
    yield end
    goes_on.set()
    thread.join()
    caplog.handler.filters.clear()
    monkeypatch.undo()


def test_a_second_writer_waits_for_the_first_and_encodes_nothing(writer, tmp_path, caplog):
    writer(in_the_middle=False)
    images = Images()
    result = make(images, tmp_path)
    assert images.read == []
    assert result.tokens[0, :, 0].tolist() == list(range(30))
    assert len([r for r in caplog.records if "waiting for it" in r.message]) == 1


def test_a_second_writer_takes_over_from_one_that_ends_in_the_middle(writer, tmp_path):
    writer(in_the_middle=True)
    images = Images()
    result = make(images, tmp_path)
    assert min(images.read) == 8
    assert result.tokens[0, :, 0].tolist() == list(range(30))


def test_waiting_for_a_lock_can_be_stopped(tmp_path, monkeypatch):
    def interrupted(_seconds):
        raise KeyboardInterrupt

    def wait() -> None:
        with exclusive_lock(tmp_path / "lock", "taken", waits=True):
            pass

    with ThreadPoolExecutor(1) as other, exclusive_lock(tmp_path / "lock", "taken"):
        monkeypatch.setattr("time.sleep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            other.submit(wait).result()
    wait()


def test_too_little_disk_is_said_before_anything_is_encoded(tmp_path, monkeypatch):
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    images = Images()
    with pytest.raises(UserError, match=r"needs .* GB .*`cache_dir`"):
        make(images, tmp_path)
    assert images.read == []


@pytest.mark.parametrize("missing", [0, 1])
def test_a_disk_needs_room_for_the_blocks_and_the_cache(tmp_path, monkeypatch, missing):
    free = 2 * 30 * (2 * L + 8) - missing  # two bytes for a token, eight for a label
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    with pytest.raises(UserError, match="GB free") if missing else nullcontext():
        make(Images(), tmp_path)


def test_a_cache_that_is_too_large_for_the_disk_goes_on_later(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    try:
        with pytest.raises(UserError, match=r"cannot write .*File too large.*`cache_dir`"):
            make(Images(), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert make(Images(), tmp_path).tokens[0, :, 0].tolist() == list(range(30))


@pytest.mark.parametrize("size", ["64k", "104k"])  # for some blocks; for all, but not the cache
def test_a_disk_that_fills_up_meanwhile_is_told(tmp_path, monkeypatch, size):
    """Another program may take the space that was free a moment ago; SIGBUS would be the end."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk is not allowed here")
    try:
        free = SimpleNamespace(free=10**9)
        monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: free)
        monkeypatch.setattr(cache, "BLOCK", 8)
        with pytest.raises(UserError, match=r"No space left on device.*goes on.*`cache_dir`"):
            make(Images(count=200), disk, codes=200)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_keeps_what_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "BLOCK", 4)
    real = checkpoint.torch_save
    calls = []

    def full_at_the_third(contents, file):
        calls.append(contents)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        real(contents, file)

    monkeypatch.setattr(checkpoint, "torch_save", full_at_the_third)
    with pytest.raises(UserError, match="No space left"):
        make(Images(), tmp_path)
    rest = Images()
    make(rest, tmp_path)
    assert rest.read == list(range(8, 30))


def test_a_kill_while_the_blocks_are_joined_takes_no_space(tmp_path, monkeypatch):
    """What is left of it is as large as the cache: the disk may be too small for another one."""

    def joined_and_killed() -> None:
        monkeypatch.setattr(cache.os, "sync", lambda: os.kill(os.getpid(), signal.SIGKILL))
        make(Images(), tmp_path)

    def used(folder: Path) -> int:
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

    assert exit_code(fork(joined_and_killed, 1, 2)) == -signal.SIGKILL
    size = used(tmp_path) + cache.cache_bytes(30, 1, L, np.dtype(np.uint16)) - 1
    monkeypatch.setattr(
        cache.shutil, "disk_usage", lambda folder: SimpleNamespace(free=size - used(folder))
    )
    rest = Images()
    assert make(rest, tmp_path).tokens[0, :, 0].tolist() == list(range(30))
    assert rest.read == []
    assert len(list(tmp_path.iterdir())) == 2  # the cache and its lock


def test_manifest_says_what_the_tokens_are(tmp_path):
    make(Images(), tmp_path, tokenizer="abc")
    manifest = json.loads((cache_folder(tmp_path) / "manifest.json").read_text())
    assert manifest["tokenizer"] == "abc"
    assert (manifest["images"], manifest["views"], manifest["seq_len"]) == (30, 1, L)


def test_a_cache_has_the_name_under_which_earlier_versions_look_for_it(tmp_path):
    make(Images(), tmp_path, tokenizer="abc")
    assert cache_folder(tmp_path).name == "toy-train-c228bd277c6d"


@pytest.fixture
def folder_of_images(tmp_path):
    """Write gray images into class folders; returns (names) -> ImageDataset of them all."""

    def open_images(*names: str) -> ImageDataset:
        for name in names:
            path = tmp_path / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                pixels = np.full((4, 4), int(path.stem), np.uint8)
                Image.fromarray(pixels).save(path)
        found = sorted((tmp_path / "images").rglob("*.png"))
        classes = sorted({path.parent.name for path in found})
        labels = np.array([classes.index(path.parent.name) for path in found])
        items = FileImages([*map(str, found)], labels)
        source = Source(items, tmp_path / "images", found, tmp_path / "images")
        return ImageDataset(source, classes, 1, (4, 4), 2)

    return open_images


def encoded_by(calls: list[int]):
    """An encoder that notes the images that it encodes; a token is the gray of the image."""

    def note(pixels):
        calls.extend(pixels[:, 0, 0, 0].tolist())
        return encode(pixels)

    return note


def make_of_files(images, folder, calls, **identity):
    name = {"dataset": "toy", **identity}
    return cached_tokens(
        images, "train", encoded_by(calls), L, name, folder, codebook_size=300,
        batch_size=2, num_workers=0,
    )  # fmt: skip


@pytest.mark.parametrize("block", [2, 1024])
def test_a_set_that_has_grown_encodes_only_the_new_images(
    folder_of_images, tmp_path, monkeypatch, caplog, block
):
    """New images come before, between and after the old ones, in old and new classes."""
    monkeypatch.setattr(cache, "BLOCK", block)
    caplog.set_level(logging.INFO)
    calls: list[int] = []
    make_of_files(folder_of_images("b/20.png", "b/40.png", "d/60.png"), tmp_path / "c", calls)
    assert sorted(calls) == [20, 20, 40, 40, 60, 60]  # under two flips
    calls.clear()
    grown = folder_of_images("a/10.png", "b/30.png", "d/70.png")
    result = make_of_files(grown, tmp_path / "c", calls)
    assert sorted(calls) == [10, 10, 30, 30, 70, 70]
    assert result.tokens[:, :, 0].tolist() == [[10, 20, 30, 40, 60, 70]] * 2
    assert result.labels.tolist() == [0, 1, 1, 1, 2, 2]
    assert "has the tokens of 3 of 6 images" in caplog.text


def test_the_earlier_cache_with_most_of_the_images_is_taken_over(folder_of_images, tmp_path):
    calls: list[int] = []
    make_of_files(folder_of_images("a/1.png", "a/2.png", "a/3.png"), tmp_path / "c", calls)
    away = [(tmp_path / "images/a" / name, tmp_path / name) for name in ("1.png", "2.png")]
    for here, there in away:
        here.rename(there)
    make_of_files(folder_of_images("a/4.png"), tmp_path / "c", calls)  # the newest has 3 and 4
    for here, there in away:
        there.rename(here)
    calls.clear()
    result = make_of_files(folder_of_images("a/5.png"), tmp_path / "c", calls)
    assert calls == [4, 5, 4, 5]
    assert result.tokens[0, :, 0].tolist() == [1, 2, 3, 4, 5]


def test_an_unfinished_cache_begins_again_if_the_earlier_one_is_gone(folder_of_images, tmp_path):
    calls: list[int] = []
    make_of_files(folder_of_images("a/1.png", "a/2.png"), tmp_path / "c", calls)
    (first,) = (path for path in (tmp_path / "c").iterdir() if path.is_dir())
    grown = folder_of_images("a/3.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "_join", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            make_of_files(grown, tmp_path / "c", calls)
    shutil.rmtree(first)
    result = make_of_files(grown, tmp_path / "c", calls)
    assert result.tokens[0, :, 0].tolist() == [1, 2, 3]


def test_the_newest_intact_cache_of_a_split_is_found_without_its_images(tmp_path):
    def find(tokenizer="x", classes=("a", "b"), dataset="toy", split="train"):
        return find_tokens(tmp_path, dataset, split, tokenizer, classes)

    assert find() is None
    for count in (30, 20, 10):
        make(Images(count, fingerprint=str(count)), tmp_path, tokenizer="x")
    make(Images(5), tmp_path, dataset="toy-train", split="more", tokenizer="x")
    folders = {len(np.load(path / "labels.npy")): path for path in tmp_path.glob("toy-*")}
    for number, age in {30: 300, 20: 100, 10: 200, 5: 0}.items():
        os.utime(folders[number], (1e9 - age, 1e9 - age))
    assert len(find()) == 20
    flip(folders[20] / "tokens.npy", -1)
    assert len(find()) == 10
    shutil.rmtree(folders[10])
    assert len(find()) == 30
    for other in ({"tokenizer": "y"}, {"classes": ["b", "a"]}, {"split": "more"}):
        assert find(**other) is None


def test_a_changed_image_is_encoded_again_and_a_removed_one_is_left_out(folder_of_images, tmp_path):
    calls: list[int] = []
    make_of_files(folder_of_images("a/1.png", "a/2.png", "a/3.png"), tmp_path / "c", calls)
    calls.clear()
    (tmp_path / "images" / "a" / "1.png").unlink()
    Image.fromarray(np.full((4, 4), 99, np.uint8)).save(tmp_path / "images" / "a" / "2.png")
    result = make_of_files(folder_of_images(), tmp_path / "c", calls)
    assert calls == [99, 99]
    assert result.tokens[0, :, 0].tolist() == [99, 3]


def test_tokens_of_another_tokenizer_or_of_a_damaged_cache_are_not_taken_over(
    folder_of_images, tmp_path
):
    calls: list[int] = []
    make_of_files(folder_of_images("a/1.png", "a/2.png"), tmp_path / "c", calls, tokenizer="x")
    calls.clear()
    make_of_files(folder_of_images("a/3.png"), tmp_path / "c", calls, tokenizer="y")
    assert len(calls) == 6
    (stamps,) = (path for path in tmp_path.glob("c/*/stamps.npy") if len(np.load(path)) == 2)
    flip(stamps, -1)
    calls.clear()
    make_of_files(folder_of_images("a/4.png"), tmp_path / "c", calls, tokenizer="x")
    assert len(calls) == 8


def test_stamps_without_a_checksum_are_passed_over(folder_of_images, tmp_path):
    calls: list[int] = []
    make_of_files(folder_of_images("a/1.png", "a/2.png"), tmp_path / "c", calls)
    (path,) = tmp_path.glob("c/*/manifest.json")
    manifest = json.loads(path.read_text())
    del manifest["sha256"]["stamps.npy"]
    path.write_text(json.dumps(manifest))
    calls.clear()
    make_of_files(folder_of_images("a/3.png"), tmp_path / "c", calls)
    assert len(calls) == 6


def test_a_cache_whose_stamps_are_not_an_array_is_passed_over(folder_of_images, tmp_path):
    calls: list[int] = []
    make_of_files(folder_of_images("a/1.png", "a/2.png"), tmp_path / "c", calls)
    (stamps,) = tmp_path.glob("c/*/stamps.npy")
    stamps.write_bytes(b"no array")
    manifest = json.loads((stamps.parent / "manifest.json").read_text())
    manifest["sha256"][stamps.name] = hashlib.sha256(b"no array").hexdigest()
    (stamps.parent / "manifest.json").write_text(json.dumps(manifest))
    calls.clear()
    make_of_files(folder_of_images("a/3.png"), tmp_path / "c", calls)
    assert len(calls) == 6

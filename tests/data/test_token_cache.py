"""The token cache: made once, never stale, never half, never damaged unnoticed."""

import json
import resource
import subprocess
from pathlib import Path

import numpy as np
import pytest
from tiny_stages import Images

from data import token_cache as cache
from data.token_cache import cached_tokens
from utils.errors import UserError
from utils.files import exclusive_lock

L = 4


def encode(pixels):
    """Each column's first pixel is its token."""
    return pixels[:, 0, 0, :].long()


def make(images, folder, **identity):
    name = {"dataset": "toy", "split": "train", **identity}
    return cached_tokens(images, encode, L, name, folder, batch_size=4, num_workers=0)


def never(pixels):
    raise AssertionError("this should have been in the cache")


def test_tokens_and_labels_of_every_image(tmp_path):
    result = make(Images(), tmp_path)
    assert result.tokens.shape == (1, 30, L)
    assert result.tokens.dtype == np.uint16
    assert result.tokens[0, :, 0].tolist() == list(range(30))
    assert result.labels.tolist() == [i % 7 for i in range(30)]


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


def test_an_interrupted_cache_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "FLUSH_EVERY", 2)

    class Failing(Images):
        def __getitem__(self, index):
            if index == 21:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    with pytest.raises(KeyboardInterrupt):
        make(Failing(), tmp_path)
    assert not any(p.name.startswith("toy") and p.suffix != ".partial" for p in tmp_path.iterdir())
    rest = Images()
    result = make(rest, tmp_path)
    assert min(i for i in rest.read if i > 0) == 16
    assert result.tokens[0, :, 0].tolist() == list(range(30))
    assert result.labels.tolist() == [i % 7 for i in range(30)]


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


def test_a_torn_progress_record_starts_again(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "FLUSH_EVERY", 2)
    complete = make(Images(), tmp_path)
    folder = cache_folder(tmp_path)
    partial = folder.with_name(f"{folder.name}.partial")
    folder.rename(partial)
    (partial / "progress.json").write_text('{"ima')
    again = Images()
    assert (make(again, tmp_path).tokens == complete.tokens).all()
    assert set(again.read) == set(range(30))


def test_a_cache_that_is_being_written_is_left_alone(tmp_path):
    make(Images(), tmp_path)
    folder = cache_folder(tmp_path)
    folder.rename(folder.with_name("elsewhere"))
    with (
        exclusive_lock(tmp_path / f".{folder.name}.lock", "taken"),
        pytest.raises(UserError, match="another process"),
    ):
        make(Images(), tmp_path)


def test_too_little_disk_is_said_before_anything_is_encoded(tmp_path, monkeypatch):
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: type("", (), {"free": 10})())
    images = Images()
    with pytest.raises(UserError, match=r"needs .* GB .*`cache_dir`"):
        make(images, tmp_path)
    assert images.read == []


def test_an_interrupted_cache_does_not_stand_in_its_own_way(tmp_path, monkeypatch):
    def stopped(pixels):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_tokens(
            Images(), stopped, L, {"dataset": "toy", "split": "train"}, tmp_path, batch_size=4,
            num_workers=0,
        )  # fmt: skip
    # The first start has reserved everything, and so filled the disk.
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: type("", (), {"free": 10})())
    assert make(Images(), tmp_path).tokens[0, :, 0].tolist() == list(range(30))


def test_a_cache_that_is_too_large_for_the_disk_goes_on_later(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    try:
        with pytest.raises(UserError, match=r"cannot write the token cache .*File too large"):
            make(Images(), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert make(Images(), tmp_path).tokens[0, :, 0].tolist() == list(range(30))


def test_a_disk_that_fills_up_meanwhile_is_told_at_once(tmp_path, monkeypatch):
    """Another program may take the space that was free a moment ago; SIGBUS would be the end."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk is not allowed here")
    try:
        free = type("", (), {"free": 10**9})()
        monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: free)
        images = Images(count=20_000)
        with pytest.raises(UserError, match=r"No space left on device; it goes on from here"):
            make(images, disk)
        assert images.read == [0]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_keeps_what_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "FLUSH_EVERY", 1)
    real = cache.write_json_atomic
    calls = []

    def full_at_the_third(path, value):
        calls.append(path)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        real(path, value)

    monkeypatch.setattr(cache, "write_json_atomic", full_at_the_third)
    with pytest.raises(UserError, match="No space left"):
        make(Images(), tmp_path)
    monkeypatch.setattr(cache, "write_json_atomic", real)
    rest = Images()
    make(rest, tmp_path)
    assert min(i for i in rest.read if i > 0) == 8


def test_manifest_says_what_the_tokens_are(tmp_path):
    make(Images(), tmp_path, tokenizer="abc")
    manifest = json.loads((cache_folder(tmp_path) / "manifest.json").read_text())
    assert manifest["tokenizer"] == "abc"
    assert (manifest["images"], manifest["views"], manifest["seq_len"]) == (30, 1, L)

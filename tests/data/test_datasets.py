"""Every dataset, in its real format, through the real library: labels, names, splits, errors."""

import gzip
import hashlib
import http.server
import logging
import pickle
import shutil
import socket
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import dataset_files as files
import numpy as np
import pytest
import torch
from dataset_files import WRITERS

from data import download, readers, tree_readers
from data.datasets import DATASETS
from data.file_names import medmnist_size
from data.open_dataset import fetch_dataset, open_dataset
from data.spec import VIEWS, ReaderRef, Split
from utils.errors import UserError

SPLITS: tuple[Split, Split] = ("train", "validation")
FETCHED = [name for name in DATASETS if name != "folder"]
_SPECIFIED = """
    mnist cifar10 cifar100 places365 dtd fashionmnist chestmnist bloodmnist dermamnist octmnist
    tissuemnist pneumoniamnist retinamnist svhn tinyimagenet imagenet celeba folder"""
SPECIFIED = _SPECIFIED.split()


@pytest.fixture
def _trusting(monkeypatch):
    files.trust_tiny_files(monkeypatch)


@pytest.fixture
def _no_network(monkeypatch):
    def refuse(*_, **__):
        raise urllib.error.URLError("connection refused")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setitem(sys.modules, "gdown", None)
    monkeypatch.setattr(readers, "DEBIAN_FASHION_MNIST", Path("/nowhere"))


def class_of(label) -> int:
    """The class of an item: chestmnist's 14 findings are none or, in these files, one."""
    if isinstance(label, int):
        return label
    assert label.dtype == torch.uint8
    return int(label.argmax()) if label.any() else len(label)


def test_the_table_has_the_specified_datasets():
    assert list(DATASETS) == SPECIFIED
    assert list(WRITERS) == SPECIFIED


@pytest.mark.usefixtures("_trusting", "_no_network")
@pytest.mark.parametrize("name", SPECIFIED)
def test_every_image_has_the_color_of_its_class(name, tmp_path):
    WRITERS[name](tmp_path, per_class=2)
    spec, names = DATASETS[name], files.class_names(name)
    sizes = {}
    for split in SPLITS:
        images = open_dataset(name, split, tmp_path)
        sizes[split] = len(images)
        assert list(images.class_names) == names
        assert (images.channels, images.size) == (spec.channels, (spec.size,) * 2)
        assert images.num_views == (VIEWS[spec.flips] if split == "train" else 1)
        seen = set()
        for index in range(len(images)):
            pixels, label = images[index]
            assert pixels.dtype == torch.uint8
            assert pixels.shape == (spec.channels, spec.size, spec.size)
            seen.add(class_of(label))
            assert files.is_of_class(pixels, names, spec.channels, names[class_of(label)])
        if name != "folder":
            assert seen == set(range(len(names)))
    held_out = 1 if name == "folder" else len(names)
    assert sizes["validation"] == held_out
    assert sizes["train"] == (8 if name == "folder" else 2 * len(names))


@pytest.mark.parametrize("name", SPECIFIED)
def test_rows_agree_with_what_the_libraries_say(name):
    spec = DATASETS[name]
    names = files.class_names(name)
    assert spec.num_classes in (None, len(names))
    assert spec.classes in ((), tuple(names))
    assert spec.name == name
    assert set(spec.splits) == {"train", "validation"}
    assert spec.splits["train"] != spec.splits["validation"]


@pytest.mark.usefixtures("_trusting", "_no_network")
@pytest.mark.parametrize("name", ["mnist", "cifar10", "svhn", "dtd", "celeba", "bloodmnist"])
def test_reading_writes_nothing(name, tmp_path):
    WRITERS[name](tmp_path / "source", per_class=1)
    folder = files.copy_read_only(tmp_path / "source", tmp_path / "read only")
    before = sorted(folder.rglob("*"))
    for split in SPLITS:
        assert len(open_dataset(name, split, folder))
    assert sorted(folder.rglob("*")) == before


@pytest.mark.usefixtures("_trusting", "_no_network")
@pytest.mark.parametrize("name", FETCHED)
def test_missing_files_name_the_way_out_and_leave_nothing(name, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    data_dir = tmp_path / "datasets"
    with pytest.raises(UserError) as error:
        open_dataset(name, "train", data_dir)
    spec = DATASETS[name]
    needed = spec.files[:1] if "npz" in spec.files[0] else spec.files
    paths = [str(data_dir / file) for file in needed]
    for part in (f"cannot fetch {name}", "another `data_dir`", spec.source, *paths):
        assert part in str(error.value)
    assert "\n" not in str(error.value)
    assert "partial" not in str(error.value)
    assert spec.license in caplog.text
    assert not data_dir.exists()
    with pytest.raises(UserError, match="`download_only` first, name another `data_dir`"):
        open_dataset(name, "train", data_dir, download=False)


@pytest.mark.usefixtures("_no_network")
def test_without_download_nothing_is_tried(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    with pytest.raises(UserError, match="cannot open cifar10"):
        open_dataset("cifar10", "train", tmp_path, download=False)
    assert not caplog.text


@pytest.mark.usefixtures("_no_network")
def test_a_failed_download_leaves_other_files_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    files.write_mnist(tmp_path)
    with pytest.raises(UserError, match="cannot fetch svhn"):
        fetch_dataset("svhn", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"mine.txt", "MNIST"}


class Served:
    """A folder behind a web server of this machine."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{port}"

    def md5(self, name: str) -> str:
        return hashlib.md5((self.folder / name).read_bytes()).hexdigest()


@pytest.fixture
def served(tmp_path) -> Iterator[Served]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_) -> None:
            pass

    folder = tmp_path / "served"
    folder.mkdir()
    handler = partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Served(folder, server.server_address[1])
        server.shutdown()


def test_a_download_is_checked_unpacked_and_tidied(served, tmp_path, monkeypatch):
    files.write_tinyimagenet(tmp_path / "made", per_class=1)
    name = "tiny-imagenet-200.zip"
    shutil.make_archive(str(served.folder / "tiny-imagenet-200"), "zip", tmp_path / "made")
    monkeypatch.setattr(tree_readers.TinyImageNet, "url", f"{served.url}/{name}")
    data_dir = tmp_path / "data"
    with pytest.raises(UserError, match="cannot fetch tinyimagenet: File not found or corrupted"):
        fetch_dataset("tinyimagenet", data_dir)
    assert not data_dir.exists()

    monkeypatch.setattr(tree_readers.TinyImageNet, "md5", served.md5(name))
    fetch_dataset("tinyimagenet", data_dir)
    assert len(open_dataset("tinyimagenet", "train", data_dir, download=False)) == 200
    assert sorted(path.name for path in data_dir.iterdir()) == ["tiny-imagenet-200", name]


@pytest.mark.parametrize("package", ["urllib.request.urlopen", "requests.get"])
def test_a_server_that_says_nothing_is_given_up(tmp_path, monkeypatch, package):
    """Both are used: requests by gdown, which fetches celeba."""
    module, _, name = package.rpartition(".")
    get = getattr(pytest.importorskip(module), name)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(download, "STALL_SECONDS", 0.2)
    silent = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
    monkeypatch.setattr(tree_readers.CelebA, "fetch", lambda *_: get(url))
    end = threading.Timer(20, silent.close)  # otherwise a failure of this test would take forever
    end.start()
    with pytest.raises(UserError, match="timed out"):
        fetch_dataset("celeba", tmp_path)
    end.cancel()
    silent.close()


@pytest.mark.usefixtures("_trusting")
def test_medmnist_fetches_the_size_that_is_asked_for(served, tmp_path, monkeypatch):
    import medmnist

    files.write_medmnist("retinamnist", served.folder, size=64)
    info = medmnist.INFO["retinamnist"]
    monkeypatch.setitem(info, "url_64", f"{served.url}/retinamnist_64.npz")
    monkeypatch.setitem(info, "MD5_64", served.md5("retinamnist_64.npz"))
    fetch_dataset("retinamnist", tmp_path / "data", size=48)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["retinamnist_64.npz"]


@pytest.mark.usefixtures("_trusting", "_no_network")
def test_archives_that_lie_there_are_unpacked_without_the_network(tmp_path):
    files.write_imagenet_archives(tmp_path)
    names = files.class_names("imagenet")
    for split in SPLITS:
        images = open_dataset("imagenet", split, tmp_path, size=8)
        assert len(images) == 1000
        for pixels, label in (images[index] for index in range(0, 1000, 7)):
            assert files.is_of_class(pixels, names, 3, names[label])
    assert not list(tmp_path.glob(".*"))


@pytest.mark.usefixtures("_no_network")
def test_imagenet_may_lie_in_a_folder_of_its_name(tmp_path):
    files.write_imagenet(tmp_path / "imagenet", per_class=1)
    assert len(open_dataset("imagenet", "validation", tmp_path)) == 1000


@pytest.mark.usefixtures("_no_network")
def test_imagenet_with_classes_missing_is_refused(tmp_path):
    files.write_imagenet(tmp_path, per_class=1)
    for split in ("train", "val"):
        shutil.rmtree(tmp_path / split / files.SYNSETS[5])
    with pytest.raises(UserError, match="999 classes of imagenet instead of 1000"):
        open_dataset("imagenet", "train", tmp_path)
    shutil.rmtree(tmp_path / "val" / files.SYNSETS[6])
    with pytest.raises(UserError, match="the same as in val"):
        open_dataset("imagenet", "train", tmp_path, download=False)


@pytest.mark.usefixtures("_no_network")
def test_places365_needs_the_images_of_the_split(tmp_path, monkeypatch):
    files.trust_tiny_files(monkeypatch)
    files.write_places365(tmp_path, per_class=1)
    shutil.rmtree(tmp_path / "val_256")
    assert len(open_dataset("places365", "train", tmp_path)) == 365
    with pytest.raises(UserError, match="val_256"):
        open_dataset("places365", "validation", tmp_path, download=False)


@pytest.mark.usefixtures("_no_network")
def test_checksums_of_pickled_files_are_not_passed_over(tmp_path):
    files.write_cifar10(tmp_path)  # not the official files
    with pytest.raises(UserError, match="is incomplete or not the official one"):
        open_dataset("cifar10", "train", tmp_path, download=False)


@pytest.mark.usefixtures("_no_network")
def test_official_sample_counts_are_not_passed_over(tmp_path):
    files.write_bloodmnist(tmp_path)
    with pytest.raises(UserError, match="official number of images"):
        open_dataset("bloodmnist", "train", tmp_path, download=False)


@pytest.mark.usefixtures("_no_network")
def test_truncated_gzip_is_found(tmp_path):
    files.write_mnist(tmp_path)
    file = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(UserError, match="cannot open mnist"):
        open_dataset("mnist", "train", tmp_path, download=False)


def test_fashionmnist_of_debians_package(tmp_path, monkeypatch):
    files.write_fashionmnist(tmp_path)
    there = tmp_path / "FashionMNIST" / "raw"
    monkeypatch.setattr(readers, "DEBIAN_FASHION_MNIST", there)
    assert len(open_dataset("fashionmnist", "train", tmp_path / "empty")) == 20
    assert fetch_dataset("fashionmnist", tmp_path / "empty") == there


def test_plain_idx_files_are_read_where_they_are(tmp_path):
    files.write_mnist(tmp_path)
    for packed in (tmp_path / "MNIST" / "raw").glob("*.gz"):
        packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
        packed.unlink()
    assert len(open_dataset("mnist", "train", tmp_path)) == 20


def test_another_dataset_is_another_row(tmp_path, monkeypatch):
    files.write_mnist(tmp_path)
    (tmp_path / "MNIST").rename(tmp_path / "KMNIST")
    row = replace(
        DATASETS["mnist"],
        name="kmnist",
        reader=ReaderRef("data.readers", "Idx", ("KMNIST",)),
        classes=(),
    )
    monkeypatch.setitem(DATASETS, "kmnist", row)
    images = open_dataset("kmnist", "train", tmp_path)
    assert len(images) == 20
    assert images.class_names[:3] == ("o", "ki", "su")  # as torchvision has them


def test_the_file_of_the_right_size_is_asked_for(tmp_path):
    with pytest.raises(UserError, match=r"/octmnist_128\.npz$"):
        open_dataset("octmnist", "train", tmp_path, size=100, download=False)


@pytest.mark.parametrize(
    ("size", "stored"), [(16, 28), (28, 28), (32, 28), (33, 64), (64, 64), (128, 128), (512, 224)]
)
def test_medmnist_size_is_the_smallest_that_is_not_enlarged(size, stored):
    assert medmnist_size(size) == stored


@pytest.mark.usefixtures("_trusting")
@pytest.mark.parametrize("size", [48, 64])
def test_medmnist_reads_the_larger_file(size, tmp_path):
    files.write_medmnist("bloodmnist", tmp_path, size=64)
    images = open_dataset("bloodmnist", "train", tmp_path, size)
    assert images[0][0].shape == (3, size, size)


@pytest.mark.usefixtures("_trusting")
def test_several_findings_stay_several(tmp_path):
    files.write_chestmnist(tmp_path)
    with np.load(tmp_path / "chestmnist.npz") as stored:
        arrays = dict(stored)
    arrays["train_labels"][0] = 1
    np.savez(tmp_path / "chestmnist.npz", **arrays)
    _, label = open_dataset("chestmnist", "train", tmp_path)[0]
    assert isinstance(label, torch.Tensor)
    assert label.tolist() == [1] * 14


def test_the_fingerprint_follows_the_files(tmp_path):
    files.write_folder(tmp_path / "a", per_class=3)
    first = open_dataset("folder", "train", tmp_path / "a")
    assert first.fingerprint == open_dataset("folder", "train", tmp_path / "a").fingerprint
    assert first.fingerprint != open_dataset("folder", "validation", tmp_path / "a").fingerprint
    shutil.copytree(tmp_path / "a", tmp_path / "b")  # keeps the times of change
    assert first.fingerprint == open_dataset("folder", "train", tmp_path / "b").fingerprint
    shutil.move(tmp_path / "b" / "pear", tmp_path / "b" / "quince")
    assert first.fingerprint != open_dataset("folder", "train", tmp_path / "b").fingerprint


@pytest.mark.usefixtures("_trusting")
@pytest.mark.parametrize("name", ["mnist", "cifar10", "svhn", "dtd", "chestmnist"])
def test_datasets_go_to_worker_processes(name, tmp_path):
    WRITERS[name](tmp_path, per_class=1)
    images = open_dataset(name, "train", tmp_path)
    copy = pickle.loads(pickle.dumps(images))
    assert torch.equal(copy[3][0], images[3][0])

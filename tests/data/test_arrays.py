"""Datasets in arrays: labels that fit, declared sizes, and one line for whatever is damaged."""

import gzip
import io
import os
import pickle
import struct
import zipfile
from pathlib import Path

import dataset_files as files
import numpy as np
import pytest

from data.arrays import read_idx
from data.generated import open_generated
from data.open_dataset import open_dataset
from utils.errors import UserError

TRAIN_IMAGES = "MNIST/raw/train-images-idx3-ubyte.gz"
TRAIN_LABELS = "MNIST/raw/train-labels-idx1-ubyte.gz"


@pytest.fixture(autouse=True)
def _trusting(monkeypatch):
    files.trust_tiny_files(monkeypatch)


def change_npz(path: Path, **arrays: np.ndarray) -> None:
    with np.load(path) as stored:
        np.savez(path, **{**stored, **arrays})


def set_mnist_label(folder: Path, label: int) -> None:
    file = folder / TRAIN_LABELS
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes())[:-1] + bytes([label])))


def set_cifar_label(folder: Path, label: int) -> None:
    file = folder / "cifar-10-batches-py" / "data_batch_1"
    entry = pickle.loads(file.read_bytes())
    entry["labels"][0] = label
    file.write_bytes(pickle.dumps(entry))


def set_svhn_label(folder: Path, label: int) -> None:
    from scipy.io import loadmat, savemat

    found = loadmat(folder / "train_32x32.mat")
    labels = found["y"].astype(np.int16)
    labels[0] = label
    savemat(folder / "train_32x32.mat", {"X": found["X"], "y": labels})


def set_blood_label(folder: Path, label: int) -> None:
    labels = np.zeros((16, 1), np.int64)
    labels[3] = label
    change_npz(folder / "bloodmnist.npz", train_labels=labels)


@pytest.mark.parametrize(
    ("name", "change", "label", "said"),
    [
        ("mnist", set_mnist_label, 10, "labels-idx1-ubyte.gz has the label 10, but .* 0 to 9"),
        ("mnist", set_mnist_label, 255, "label 255"),
        ("cifar10", set_cifar_label, 10, "cifar-10-batches-py has the label 10"),
        ("cifar10", set_cifar_label, -1, "label -1, .* 0 to 9"),
        ("svhn", set_svhn_label, 11, "train_32x32.mat has the label 11"),
        ("bloodmnist", set_blood_label, 8, r"bloodmnist\.npz has the label 8, .* 0 to 7"),
        ("bloodmnist", set_blood_label, -1, "label -1"),
        ("bloodmnist", set_blood_label, -500, "label -500"),
    ],
)
def test_a_label_that_is_no_class_is_refused_on_opening(tmp_path, name, change, label, said):
    files.WRITERS[name](tmp_path)
    change(tmp_path, label)
    with pytest.raises(UserError, match=said):
        open_dataset(name, "train", tmp_path)
    open_dataset(name, "validation", tmp_path)


@pytest.mark.parametrize("value", [2, -1])
def test_a_finding_is_there_or_not(tmp_path, value):
    files.write_chestmnist(tmp_path)
    marks = np.zeros((30, 14), np.int8)
    marks[3, 4] = value
    change_npz(tmp_path / "chestmnist.npz", train_labels=marks)
    with pytest.raises(UserError, match=f"among them {value}, not 14 that are 0 or 1"):
        open_dataset("chestmnist", "train", tmp_path)


def test_there_is_a_label_for_each_image(tmp_path):
    files.write_mnist(tmp_path)
    labels = gzip.decompress((tmp_path / TRAIN_LABELS).read_bytes())
    short = labels[:4] + struct.pack(">I", 15) + labels[8:23]
    (tmp_path / TRAIN_LABELS).write_bytes(gzip.compress(short))
    with pytest.raises(UserError, match=r"ubyte\.gz has 15 labels for 20 images"):
        open_dataset("mnist", "train", tmp_path)


IDX = struct.pack(">4i", 0x803, 20, 28, 28) + bytes(20 * 784)


DAMAGED_IDX = [
    (b"<!DOCTYPE html><p>moved", "it is a web page"),
    (b"", "it is empty"),
    (b"\x1f\x8b\x08", "ended before"),
    (gzip.compress(b"<html>"), "not an IDX file of bytes with 3 axes"),
    (gzip.compress(struct.pack(">4i", 0xD03, 20, 28, 28) + bytes(62720)), "not an IDX file"),
    (gzip.compress(struct.pack(">2i", 0x801, 20) + bytes(20)), "not an IDX file of bytes with 3"),
    (gzip.compress(IDX[:-5]), "holds 15,675 bytes of 15,680"),
    (gzip.compress(IDX + b"x"), "holds 15,681 bytes of 15,680"),
    (gzip.compress(struct.pack(">4I", 0x803, 2**32 - 1, 2**31, 9)), "more than any dataset"),
    (gzip.compress(IDX)[:-9], "ended before|CRC"),
]


@pytest.mark.parametrize("case", range(len(DAMAGED_IDX)))
def test_damaged_idx_files_are_named(tmp_path, case):
    content, said = DAMAGED_IDX[case]
    files.write_mnist(tmp_path)
    (tmp_path / TRAIN_IMAGES).write_bytes(content)
    with pytest.raises(UserError, match=f"cannot read .*/{TRAIN_IMAGES}: .*({said})") as error:
        open_dataset("mnist", "train", tmp_path)
    assert "\n" not in str(error.value)


def npz_that_declares(path: Path, shape: tuple[int, ...], content: bytes, name: str) -> None:
    """An .npz whose array says it is larger, or smaller, than it is."""
    array = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(array, header)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{name}.npy", array.getvalue() + content)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"train_images": np.zeros((16, 28, 28, 3), np.int64)}, "train_images is int64"),
        ({"train_images": np.full((16, 28, 28, 3), "a")}, "train_images is <U1"),
        ({"train_images": np.zeros((16, 28, 28), np.uint8)}, r"uint8 \(16, 28, 28\), not"),
        ({"train_images": np.zeros((16, 64, 64, 3), np.uint8)}, r"not .*\(N, 28, 28, 3\)"),
        ({"train_images": np.array([{}])}, "Python objects"),
        ({"train_labels": np.full((16, 1), "cat")}, "train_labels is <U3"),
        ({"train_labels": np.zeros((15, 1), np.uint8)}, r"not whole numbers \(16, 1\)"),
        ({"train_labels": np.zeros((16, 2), np.uint8)}, "not whole numbers"),
        ({"train_labels": np.zeros((16, 1))}, "train_labels is float64"),
    ],
)
def test_odd_medmnist_files_are_named(tmp_path, arrays, said):
    files.write_bloodmnist(tmp_path)
    change_npz(tmp_path / "bloodmnist.npz", **arrays)
    with pytest.raises(UserError, match=rf"cannot read .*bloodmnist\.npz: .*{said}"):
        open_dataset("bloodmnist", "train", tmp_path)


def test_damaged_npz_files_are_named(tmp_path):
    files.write_bloodmnist(tmp_path)
    file = tmp_path / "bloodmnist.npz"
    whole = file.read_bytes()
    random = np.random.default_rng(0)
    for case in range(60):
        data = bytearray(whole)
        if case % 3:
            data[int(random.integers(len(data)))] ^= 1 << int(random.integers(8))
            data[int(random.integers(300))] ^= 255
        else:
            del data[int(random.integers(len(data))) :]
        file.write_bytes(data)
        message = f"{file}\n"
        try:
            open_dataset("bloodmnist", "train", tmp_path, download=False)
        except UserError as error:
            message = f"{error}\n"
        assert str(file) in message
        assert message.count("\n") == 1


def test_an_npz_that_declares_too_much_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "bloodmnist.npz"
    npz_that_declares(path, (10**9, 28, 28, 3), b"few", "train_images")
    with pytest.raises(UserError, match="declares 2,352,000,000,000 bytes and holds 3"):
        open_dataset("bloodmnist", "train", tmp_path)
    npz_that_declares(path, (1, 28, 28, 3), bytes(10**7), "train_images")
    with pytest.raises(UserError, match="declares 2,352 bytes and holds 10,000,000"):
        open_dataset("bloodmnist", "train", tmp_path)
    path = tmp_path / "samples.npz"
    npz_that_declares(path, (4, 10**5, 10**5, 3), b"few", "arr_0")
    with pytest.raises(UserError, match="declares 120,000,000,000 bytes and holds 3"):
        open_generated(path, 8, 3)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((4, 8, 8, 3)), "float64"),
        (np.zeros((4, 8, 8, 4), np.uint8), r"\(4, 8, 8, 4\), not uint8 \(N, H, W, C\) with C 1 or"),
        (np.zeros((0, 8, 8, 3), np.uint8), r"images are uint8 \(0, 8, 8, 3\)"),
        (np.zeros(4, np.uint8), "not uint8"),
        (np.zeros((8, 8, 3), np.uint8), r"\(8, 8, 3\) is one image or many narrow ones"),
        (np.asfortranarray(np.zeros((4, 8, 8, 3), np.uint8)), "Fortran"),
        (np.array([{}]), "Python objects"),
    ],
)
@pytest.mark.parametrize("suffix", ["npz", "npy"])
def test_generated_images_of_another_kind_are_named(tmp_path, array, said, suffix):
    path = tmp_path / f"a.{suffix}"
    np.savez(path, arr_0=array) if suffix == "npz" else np.save(path, array)
    with pytest.raises(UserError, match=rf"cannot read .*a\.{suffix}: .*{said}"):
        open_generated(path, 8, 3)


CLASSES = np.array([2, 0, 1, 2])


@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.float32, np.float64])
@pytest.mark.parametrize("labels", [CLASSES, CLASSES[:, None], np.eye(3)[CLASSES]])
def test_labels_of_every_usual_shape_and_type_are_read(tmp_path, labels, kind):
    np.savez(tmp_path / "a.npz", np.zeros((4, 8, 8, 3), np.uint8), labels.astype(kind))
    ((_, read),) = open_generated(tmp_path / "a.npz", 8, 3).blocks(8)
    assert read.dtype == np.int64
    assert read.tolist() == CLASSES.tolist()


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (np.array(list("abca")), "<U1 (4,) is not whole numbers"),
        (CLASSES + 0.5, "float64 (4,) is not whole numbers"),
        (np.array([0, 1, np.nan, 2]), "not whole numbers"),
        (np.array([0, 1, np.inf, 2]), "not whole numbers"),
        (np.array([0, 1, 1e300, 2]), "not whole numbers"),
        (np.array([0, 1, 2**63, 2], np.uint64), "not whole numbers"),
        (np.ones((4, 0)), "float64 (4, 0) is not whole numbers"),
        (np.ones((4, 3), np.uint8), "uint8 (4, 3) is not one class for each image"),
        (np.eye(4)[:3], "not a label for each of 4 images"),
        (np.array([{}] * 4), "Python objects"),
    ],
)
def test_labels_that_are_not_read_are_said(tmp_path, caplog, labels, said):
    np.savez(tmp_path / "a.npz", np.zeros((4, 8, 8, 3), np.uint8), labels)
    ((_, read),) = open_generated(tmp_path / "a.npz", 8, 3).blocks(8)
    assert read.tolist() == [-1] * 4
    assert said in caplog.text
    assert "without labels" in caplog.text


def test_a_file_of_other_arrays_is_named(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((4, 8, 8, 3), np.uint8))
    with pytest.raises(UserError, match=r"a\.npz: it has no arr_0 \(images\)"):
        open_generated(tmp_path / "a.npz", 8, 3)


def test_labels_of_another_name_are_said(tmp_path, caplog):
    np.savez(tmp_path / "a.npz", np.zeros((4, 8, 8, 3), np.uint8), labels=np.arange(4))
    ((_, read),) = open_generated(tmp_path / "a.npz", 8, 3).blocks(8)
    assert read.tolist() == [-1] * 4
    assert "it has no arr_1 (labels, arr_0); the images are used without labels" in caplog.text


def test_pipes_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "bloodmnist.npz")
    with pytest.raises(UserError, match=r"bloodmnist\.npz is not a file"):
        open_dataset("bloodmnist", "train", tmp_path)
    os.mkfifo(tmp_path / "a.npy")
    with pytest.raises(UserError, match=r"a\.npy is neither"):
        open_generated(tmp_path / "a.npy", 8, 3)
    files.write_dtd(tmp_path, per_class=1)
    (tmp_path / "dtd" / "dtd" / "labels" / "train1.txt").unlink()
    os.mkfifo(tmp_path / "dtd" / "dtd" / "labels" / "train1.txt")
    with pytest.raises(UserError, match=r"train1\.txt is not a file"):
        open_dataset("dtd", "train", tmp_path)


def test_idx_files_are_read_as_their_bytes_say(tmp_path):
    (tmp_path / "a").write_bytes(struct.pack(">4i", 0x803, 2, 1, 3) + bytes(range(6)))
    assert read_idx(tmp_path / "a", 3).tolist() == [[[0, 1, 2]], [[3, 4, 5]]]

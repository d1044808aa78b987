"""What is read of files of torch.save and safetensors, and what is said of others."""

import argparse
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile_files import HOSTILE, archive, of_pickle, packed, saved, write_all
from safetensors.torch import save
from torch import Tensor

from utils.errors import UserError, reading
from utils.torch_file import CUT_OFF, pickled_network, read_torch_file

ROOT = Path(__file__).parents[2]
TENSORS = [
    torch.arange(6.0).view(2, 3),
    torch.arange(12).view(3, 4).T,  # strides
    torch.arange(20.0)[4:9:2],  # an offset
    torch.ones(2, dtype=torch.bfloat16),
    torch.ones(2, 2, dtype=torch.half),
    torch.tensor([True, False]),
    torch.tensor(7, dtype=torch.int32),
    torch.zeros(0, 3),
    torch.ones(2, dtype=torch.complex64),
    torch.nn.Parameter(torch.ones(2)),
]
PLAIN = {
    "text": "aé",
    "numbers": [1, -1, 300, 70_000, 2**40, 2**100, 0.5],
    "nothing": (None, True, False, ()),
    "bytes": b"a\xff",
    "set": {1, 2},
    "size": torch.Size([2, 3]),
    3: OrderedDict(a=1),
}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and one.stride() == other.stride() and one.equal(other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.mark.parametrize(
    "options", [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}], ids=str
)
def test_what_torch_saves_is_read(tmp_path: Path, options: dict[str, Any]) -> None:
    value = {"tensors": TENSORS, "plain": PLAIN}
    torch.save(value, tmp_path / "a.pt", **options)
    found = read_torch_file(tmp_path / "a.pt")
    assert same(found, value)
    assert type(found["plain"][3]) is OrderedDict
    assert type(found["plain"]["size"]) is torch.Size


def test_tensors_of_one_storage_still_share_it(tmp_path: Path) -> None:
    table = torch.zeros(4)
    torch.save({"a": table, "b": table, "c": table[2:]}, tmp_path / "a.pt")
    found = read_torch_file(tmp_path / "a.pt")
    found["a"][3] = 5
    assert found["b"][3] == 5
    assert found["c"].tolist() == [0, 5]


def test_a_state_dict_of_a_module_is_that_of_the_module(tmp_path: Path) -> None:
    weights = torch.nn.Linear(2, 3).state_dict()  # with metadata
    torch.save(weights, tmp_path / "a.pt")
    assert same(dict(read_torch_file(tmp_path / "a.pt")), dict(weights))


def test_newer_dtypes_and_attributes_are_read(tmp_path: Path) -> None:
    marked = torch.nn.Parameter(torch.ones(2))
    marked.note = "kept by nobody"  # type: ignore[attr-defined]
    torch.save([torch.tensor([1, 2]).to(torch.uint16), marked], tmp_path / "a.pt")
    numbers, found = read_torch_file(tmp_path / "a.pt")
    assert (numbers.dtype, numbers.tolist()) == (torch.uint16, [1, 2])
    assert found.tolist() == [1, 1]


@pytest.mark.parametrize("zipped", [True, False])
def test_objects_beside_the_weights_become_nothing(tmp_path: Path, zipped: bool) -> None:
    """As in the files of Lightning, old and new."""
    options = argparse.Namespace(lr=1e-4)
    (tmp_path / "a.ckpt").write_bytes(
        saved({"state_dict": {"weight": torch.ones(2)}, "hyper": options}, zipped)
    )
    found = read_torch_file(tmp_path / "a.ckpt")
    assert found["state_dict"]["weight"].tolist() == [1, 1]
    assert found["hyper"].name == "argparse.Namespace"
    assert not hasattr(found["hyper"], "lr")


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "a.ckpt", "a"])
@pytest.mark.parametrize("content", [save, saved])
def test_the_contents_tell_the_format(
    tmp_path: Path, name: str, content: Callable[[dict[str, Tensor]], bytes]
) -> None:
    (tmp_path / name).write_bytes(content({"weight": torch.arange(3)}))
    assert read_torch_file(tmp_path / name)["weight"].tolist() == [0, 1, 2]


def test_whole_networks_are_named(tmp_path: Path) -> None:
    for zipped in (True, False):
        (tmp_path / "a.pt").write_bytes(saved({"model": torch.nn.Linear(2, 2)}, zipped))
        network = pickled_network(read_torch_file(tmp_path / "a.pt"))
        assert network == "torch.nn.modules.linear.Linear"
    assert pickled_network({"a": torch.ones(1)}) is None


def truncated(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


def scripted() -> bytes:
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(torch.nn.Identity(), torch.ones(1)), file)
    return file.getvalue()


def zipped(*names: str, how: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", how) as written:
        for count, name in enumerate(names):
            written.writestr(name, b"a" * count)
    return file.getvalue()


def tarred(name: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as written:
        written.addfile(tarfile.TarInfo(name))
    return file.getvalue()


WEIGHTS = {"weight": torch.arange(1000.0)}
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 980092370\n"
PAGE = b"\n <!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title>"
NO_CHECKPOINTS = {  # what it is, and what is said of it
    "a pointer": (LFS, "it is a pointer of Git LFS, not the file itself"),
    "a page": (PAGE, "it is a web page and not the file behind it"),
    "nothing": (b"", "it is empty"),
    "half": (truncated(saved(WEIGHTS)), CUT_OFF),
    "half of an old file": (truncated(saved(WEIGHTS, zipped=False)), CUT_OFF),
    "half of an old pickle": (saved(WEIGHTS, zipped=False)[:400], CUT_OFF),
    "half of safetensors": (save(WEIGHTS)[:30], CUT_OFF),
    "no data of safetensors": (truncated(save(WEIGHTS)), CUT_OFF),
    "a message": (b'{"error": "Not Found"}', 'a text that begins with \'{"error":'),
    "packed": (b"\x1f\x8b\x08\x00", "it is packed: unpack it first"),
    "arrays": (zipped("arr_0.npy"), "an archive of numpy, with arr_0.npy"),
    "a packed archive": (zipped("a/", "b.txt", "c\x1b/d.pt"), "with c?/d.pt, b.txt, a/: unpack it"),
    "an archive": (zipped("a.pt", how=zipfile.ZIP_STORED), "an archive with a.pt: unpack it first"),
    "a packed checkpoint": (packed(WEIGHTS), "its records are packed, which torch.save does not"),
    "a list of parts": (b'{"metadata": {}, "weight_map": {}}', "the list of a checkpoint in parts"),
    "a pickle": (pickle.dumps({"a": 1}), "a pickle, but not of torch.save"),
    "a tar": (tarred("models/a.pt"), "it is a tar archive, with models/a.pt: unpack it first"),
    "zeros": (b"\0" * 5000, "not a file of torch.save or safetensors"),
    "a long list": (struct.pack("<Q", 9 << 20) + b"{" + b" " * (9 << 20), "list of tensors is too"),
    "an instruction": (archive(b"\x80\x02L5L\n."), "pickle instruction LONG,"),
    "big end first": (archive(b"\x80\x02N.", byteorder=b"big"), "byte order is big"),
}


@pytest.mark.parametrize(("content", "said"), NO_CHECKPOINTS.values(), ids=NO_CHECKPOINTS)
def test_what_is_no_checkpoint_is_told_apart(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(UserError) as refused:
        read_torch_file(path)
    assert str(refused.value).startswith(f"cannot read the checkpoint {path}: ")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_program_of_torch_jit_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(scripted())
    with pytest.raises(UserError, match=r"program of torch\.jit\.save"):
        read_torch_file(tmp_path / "a.pt")


def test_a_part_of_a_checkpoint_is_refused(tmp_path: Path) -> None:
    for name in ("model-00001-of-00003.safetensors", "pytorch_model-00001-of-00003.bin"):
        (tmp_path / name).write_bytes(save(WEIGHTS))
        with pytest.raises(UserError, match=r"it is part 1 of 3 of a checkpoint"):
            read_torch_file(tmp_path / name)
    (tmp_path / "model-00001-of-00001.safetensors").write_bytes(save(WEIGHTS))
    read_torch_file(tmp_path / "model-00001-of-00001.safetensors")


def test_what_is_in_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is a folder without a checkpoint$"):
        read_torch_file(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "d.pt").touch()
    with pytest.raises(UserError, match=r"name the checkpoint in it: run/d\.pt$"):
        read_torch_file(tmp_path)
    for name in ("b.txt", "c.ckpt", "a.pt"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"name the checkpoint in it: a\.pt, c\.ckpt$"):
        read_torch_file(tmp_path)
    (tmp_path / "data.pkl").touch()
    with pytest.raises(UserError, match="a checkpoint that was unpacked"):
        read_torch_file(tmp_path)


ARRAY = np.arange(6, dtype="float32").reshape(2, 3)


@pytest.mark.parametrize(
    "array",
    [
        ARRAY,
        ARRAY.T,
        np.asfortranarray(ARRAY),
        ARRAY[:, ::2],
        ARRAY.astype("float16"),
        np.array([True, False]),
        np.zeros((0, 3)),
        np.array(2**40),
        np.arange(3, dtype="uint32"),
    ],
    ids=lambda array: f"{array.dtype} {array.shape}",
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_arrays_of_numpy_become_tensors(tmp_path: Path, array: Any, protocol: int) -> None:
    stored = {"weight": array, "again": array, "whatever": np.array([None, "a"])}
    torch.save(stored, tmp_path / "a.pt", pickle_protocol=protocol)
    found = read_torch_file(tmp_path / "a.pt")
    for name in ("weight", "again"):
        assert found[name].numpy().dtype == array.dtype
        np.testing.assert_array_equal(found[name].numpy(), array)
    torch.save([array.astype(array.dtype.newbyteorder(">"))], tmp_path / "a.pt")
    if array.dtype.itemsize > 1:
        with pytest.raises(UserError, match="byte order of an array is big"):
            read_torch_file(tmp_path / "a.pt")


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(UserError, match="is a device, pipe or socket"):
            read_torch_file(path)
    (tmp_path / "circle").symlink_to("circle")
    for path in (tmp_path / "circle", tmp_path / "none", tmp_path / ("a" * 300)):
        with pytest.raises(UserError, match=r"not found|too long"):
            read_torch_file(path)


def test_a_wrong_checksum_of_the_archive_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    data = saved(WEIGHTS)
    spot = data.index(torch.arange(1000.0).numpy().tobytes()) + 9
    path.write_bytes(data[:spot] + bytes([data[spot] ^ 1]) + data[spot + 1 :])
    with pytest.raises(UserError, match="CRC-32"):
        read_torch_file(path)


def test_archives_without_checksums_are_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(WEIGHTS, tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert read_torch_file(tmp_path / "a.pt")["weight"].sum() == 499_500


def test_two_records_of_a_name_and_long_lists_of_records_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(saved(WEIGHTS))
    with (
        pytest.warns(UserWarning, match="Duplicate name"),
        zipfile.ZipFile(path, "a") as written,
    ):
        written.writestr(written.namelist()[0], of_pickle([]))
    with pytest.raises(UserError, match="have the same name"):
        read_torch_file(path)
    path.write_bytes(archive(b"\x80\x02N.", **{f"data/{i}": b"" for i in range(400)}))
    assert read_torch_file(path) is None
    monkeypatch.setattr("utils.torch_file.LIST_BYTES", 20_000)
    with pytest.raises(UserError, match="list of contents is too long"):
        read_torch_file(path)


# --- Files that ask for much. They are read in a process of their own, which may not have it. ---

READ_ALL = """
import json, resource, sys
from pathlib import Path
from utils.errors import UserError
from utils.torch_file import read_torch_file
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + 400 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        read_torch_file(path)
        said = ""
    except UserError as error:
        said = str(error)
    print(json.dumps([path.name, said]), flush=True)
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What is said of each hostile file, by its name; "" of those that are read."""
    folder = tmp_path_factory.mktemp("hostile")
    write_all(folder)
    command = [sys.executable, "-c", READ_ALL, str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            lines, _ = process.communicate(timeout=600)  # hours, where a file is a trap
        except subprocess.TimeoutExpired:
            process.kill()
            lines, _ = process.communicate()
    return dict(map(json.loads, lines.splitlines()))


@pytest.mark.parametrize("name", HOSTILE)
def test_no_file_takes_more_memory_or_time_than_it_should(said: dict[str, str], name: str) -> None:
    _, expected = HOSTILE[name]
    assert expected in said[name]
    assert "\n" not in said[name]
    assert "memory" not in said[name]
    assert bool(expected) == bool(said[name])


def test_opening_takes_twice_the_size_of_a_file_at_most(tmp_path: Path) -> None:
    size = 200 << 20
    for zipped in (True, False):
        torch.save(
            {"weight": torch.zeros(size // 4)},
            tmp_path / "a.pt",
            _use_new_zipfile_serialization=zipped,
        )
        code = READ_ALL.replace("400 * 2**20", f"{2 * size}")
        command = [sys.executable, "-c", code, str(tmp_path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert json.loads(done.stdout) == ["a.pt", ""]


# --- One line for whatever is raised ---


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("x"), "it is damaged (KeyError: 'x')"),
        (RecursionError("too\ndeep"), "it is damaged (RecursionError: too deep)"),
        (MemoryError(), "it needs more memory than there is"),
        (RuntimeError("can't allocate memory: 4 TB"), "it needs more memory than there is"),
        (RuntimeError("Storage size calculation overflowed"), "it needs more memory than there is"),
        (PermissionError(13, "Permission denied"), "Permission denied"),
        (ValueError("no such\nthing"), "no such thing"),
    ],
)
def test_whatever_is_raised_becomes_one_line(error: Exception, said: str) -> None:
    with pytest.raises(UserError) as refused, reading("a.pt", "the checkpoint"):
        raise error
    assert str(refused.value) == f"cannot read the checkpoint a.pt: {said}"
    with pytest.raises(UserError, match=r"^as it is$"), reading("a.pt", "the checkpoint"):
        raise UserError("as it is")

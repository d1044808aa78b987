"""Checkpoints of flax are read without flax, and damage is named."""

import struct
import sys

import pytest
import torch
from flax_files import packed

from utils.errors import UserError
from utils.torch_file import read_torch_file

# flax.serialization.to_bytes of flax 0.12.8, of {"params": {"a": {"kernel": the numbers 0 to 5 as
# float32 (2, 3)}, "b": a float32 7}, "step": 300}.
BY_FLAX = bytes.fromhex(
    "82a6706172616d7382a16181a66b65726e656cc7260193920203a7666c6f61743332c418000000000000803f000000"
    "4000004040000080400000a040a162d8039390a7666c6f61743332c4040000e040a473746570cd012c"
)


@pytest.fixture
def read(tmp_path):
    def call(data: bytes):
        (tmp_path / "checkpoint").write_bytes(data)
        return read_torch_file(tmp_path / "checkpoint")

    return call


def test_a_file_of_flax_is_read(read):
    found = read(BY_FLAX)
    assert found.pop("params.a.kernel").equal(torch.arange(6.0).view(2, 3))
    assert found.pop("params.b").equal(torch.tensor(7.0))
    assert found == {"step": 300}
    stored = {"names": ["a", -5, 2**40], "long" * 20: {}, "empty": torch.empty(0, 3)}
    found = read(packed(stored))
    assert found["names"] == ["a", -5, 2**40]
    assert found["empty"].shape == (0, 3)


def test_damage_is_named(read):
    for length in range(3, len(BY_FLAX)):
        with pytest.raises(UserError, match="it ends early"):
            read(BY_FLAX[:length])
    with pytest.raises(UserError, match="not one map"):
        read(BY_FLAX + b"\0")


def test_a_missing_package_is_named(read, monkeypatch):
    monkeypatch.setitem(sys.modules, "msgpack", None)
    with pytest.raises(UserError, match="requirements-flax"):
        read(BY_FLAX)


def array(description: object) -> bytes:
    inside = packed(description)
    return b"\x81\xa1a\xc9" + struct.pack(">IB", len(inside), 1) + inside


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (array([[2, 2], "float32", bytes(15)]), "an array of shape"),
        (array([[-1], "float32", bytes(4)]), "an array without a shape"),
        (array([[1] * 65, "float32", bytes(4)]), "65 exceeds max_array_len"),
        (array([[1], "object", bytes(8)]), "is not described"),
        (array([1, "float32", bytes(4)]), "is not described"),
        (array([[1], [2], bytes(4)]), "is not described"),
        (b"\x81\xa1a\xc9\x00\x00\x00\x01\x02\xc0", "extension of type 2"),
        (b"\x81\xa1a\xdd\xff\xff\xff\xff", "exceeds max_array_len"),
        (b"\x81\xa1a" + b"\x91" * 2000 + b"\x90", "not MessagePack"),
        (b"\x81\xa1a" * 200 + b"\x00", "too many maps"),
        (b"\x81\xa1a\x91\x90", "list of lists"),
        (b"\x81\xa1a\xc6\xff\xff\xff\xff", "it ends early"),
        (b"\x81\xa1a\xc1", "not MessagePack"),
        (b"\x82\xa1a\x00\xa1a\x00", "is there twice"),
        (b"\x82\xa1a\x00\x05\x00", "not a text"),
    ],
)
def test_what_is_not_such_a_file_is_refused(read, data, said):
    with pytest.raises(UserError, match=said):
        read(data)

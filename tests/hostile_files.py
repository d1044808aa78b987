"""Small files that ask for much memory or time, or that go round in circles."""

import codecs
import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

_reconstruct = np.zeros(0).__reduce__()[0]  # builds arrays; numpy has moved it


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def archive(pickled: bytes, **records: bytes) -> bytes:
    """A file of torch.save with this pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        for name, data in {"data.pkl": pickled, "version": b"3\n", **records}.items():
            written.writestr(f"archive/{name}", data)
    return file.getvalue()


def saved(value: Any, zipped: bool = True) -> bytes:
    """The file that torch.save writes for a value."""
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def doubled(value: Any, levels: int, kind: Callable[[Any], Any] = list) -> Any:
    """A container that holds a container twice, which holds one twice, and so on."""
    for _ in range(levels):
        value = kind((value, value))
    return value


def recoded(codec: str, text: str, times: int) -> Any:
    """A text that is encoded and taken as text again, which can double it each time."""
    value: Any = text
    for _ in range(times):
        value = Call(codecs.decode, Call(codecs.encode, value, codec), "latin1")
    return value


def in_itself(kind: str) -> Any:
    """A container that holds itself."""
    if kind == "list":
        items: list[Any] = [1]
        items.append(items)
        return items
    entries: dict[str, Any] = {"a": 1}
    entries["b"] = [entries]
    return entries


def lying(count: int, claimed: int, zipped: bool) -> bytes:
    """A file with a tensor of `count` numbers that says that it has more."""
    data = saved({"weight": torch.zeros(count)}, zipped)
    found, other = (b"J" + struct.pack("<i", number) for number in (count, claimed))
    if not zipped:
        return data.replace(found, other)
    with zipfile.ZipFile(io.BytesIO(data)) as honest:
        records = {n.partition("/")[2]: honest.read(n) for n in honest.namelist()}
    return archive(records.pop("data.pkl").replace(found, other), **records)


def claiming_array(count: int) -> bytes:
    """A file with an array of numpy of 3 numbers that says that it has another number of them."""
    state = (1, (count,), np.dtype("float32"), False, b"\0" * 12)
    return of_pickle(StatefulCall(_reconstruct, (np.ndarray, (0,), b"b"), state))


class StatefulCall:
    """Pickles as a call of a function, and a state for what it returns."""

    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


def packed(value: Any) -> bytes:
    """A file of torch.save whose records are compressed."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(saved(value))) as plain,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as written,
    ):
        for name in plain.namelist():
            written.writestr(name, plain.read(name))
    return file.getvalue()


def of_pickle(value: Any) -> bytes:
    """A file of torch.save that holds a value without tensors."""
    return archive(pickle.dumps(value, 2))


MUCH = 1 << 40
LEVELS = b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."  # of lists in lists
REPEATS = "repeat what they hold too often"
CIRCLES = "hold themselves, or are nested over 100 levels deep"
KEY = "as the key of a dictionary or set"
# How to make each file, and what is said of it; "" for those that may be read.
HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "codecs in codecs": (lambda: of_pickle(recoded("utf-32", "a" * 90, 12)), "other than latin1"),
    "punycode": (lambda: of_pickle(recoded("punycode", "\u00e9a" * 200_000, 1)), "than latin1"),
    "a set of a tensor": (lambda: of_pickle(Call(set, Call(torch.Tensor, MUCH))), "makes a set"),
    "a tensor of a size": (lambda: of_pickle([Call(torch.Tensor, MUCH)]), ""),
    "a storage of a size": (lambda: of_pickle([Call(torch.FloatStorage, MUCH)]), ""),
    "bytearray": (lambda: of_pickle([Call(bytearray, MUCH)]), ""),
    "bytearray in an old file": (lambda: saved([Call(bytearray, MUCH)], zipped=False), ""),
    "lists twice in lists": (lambda: of_pickle(doubled([], 90)), REPEATS),
    "tuples twice in tuples": (lambda: of_pickle(doubled((), 90, tuple)), REPEATS),
    "tuples as a key": (lambda: archive(tuple_key()), KEY),
    "one tensor a million times": (
        lambda: saved([[[torch.zeros(1 << 18)] * 100] * 100] * 100),
        REPEATS,
    ),
    "long names on long ways": (
        lambda: of_pickle(nested({"a" * 10_000: [0] * 10_000}, "b" * 10_000, 90)),
        REPEATS,
    ),
    "a list in itself": (lambda: of_pickle(in_itself("list")), CIRCLES),
    "a dictionary in itself": (lambda: of_pickle(in_itself("dict")), CIRCLES),
    "100,000 levels": (lambda: archive(LEVELS), CIRCLES),
    "100,000 levels in an old file": (
        lambda: saved(None, zipped=False).replace(b"\x80\x02N.", LEVELS),
        CIRCLES,
    ),
    "lists, a byte each": (
        lambda: archive(b"\x80\x02(" + b"]" * 8_000_000 + b"l."),
        "more plain data than a checkpoint has",
    ),
    "a long text": (lambda: of_pickle("a" * (30 << 20) + "\U0001f600"), "more plain data"),
    "a number of digits": (
        lambda: archive(b"\x80\x02I" + b"9" * 10**5 + b"\n."),
        "Exceeds the limit",
    ),
    "numbers with one hash": (
        lambda: of_pickle({number * (2**61 - 1): 0 for number in range(8, 20_000)}),
        KEY,
    ),
    "a shape of large numbers": (
        lambda: of_pickle(Call(torch._utils._rebuild_tensor, 0, 0, (2**2000,) * 10**4, ())),
        "without a shape",
    ),
    "a tensor without data": (
        lambda: saved(torch.ones(1).expand(10**6, 10**6)),
        "shape (1000000, 1000000) without data",
    ),
    "a tensor that claims more": (
        lambda: lying(77777, 2**31 - 1, zipped=True),
        "more data than it holds",
    ),
    "a tensor that claims a little more": (
        lambda: lying(77777, 77778, zipped=True),
        "claims 311112 bytes of data where it holds 311108",
    ),
    "a tensor that claims less": (
        lambda: lying(77777, 77776, zipped=True),
        "claims 311104 bytes of data where it holds 311108",
    ),
    "an old tensor that claims more": (lambda: lying(77777, 2**31 - 1, zipped=False), "ends early"),
    "packed zeros": (lambda: packed(torch.zeros(10**7)), "records are packed"),
    "an array that claims more": (lambda: claiming_array(10**12), "an array of shape"),
    "an array of no shape": (lambda: claiming_array(-1), "an array without a shape"),
    "a sparse tensor": (lambda: saved(torch.ones(3, 3).to_sparse()), "of an unknown kind"),
}


def tuple_key() -> bytes:
    """A dictionary whose key is a tuple that takes forever to compare."""
    return b"\x80\x02}" + pickle.dumps(doubled((), 90, tuple), 2)[2:-1] + b"K\x00s."


def nested(value: Any, key: str, levels: int) -> Any:
    """A value inside dictionaries."""
    for _ in range(levels):
        value = {key: value}
    return value


def write_all(folder: Path) -> None:
    """Write every file."""
    for name, (make, _) in HOSTILE.items():
        (folder / name).write_bytes(make())

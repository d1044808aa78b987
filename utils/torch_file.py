"""Reads the files of torch.save, safetensors and flax, without running code from them.

A file of torch.save is a zip archive with a pickle, `data.pkl`, and one record per storage; before
torch 1.6 it was a series of pickles followed by the storages. Both are read here, with the machine
of utils/plain_pickle.py, so that the accepted contents do not depend on the version of torch.
Memory: a storage takes its size in the file; plain data take at most PLAIN_BYTES more.
"""

import io
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from utils.errors import UserError, reading
from utils.flax_file import is_flax, read_flax
from utils.not_a_checkpoint import what_is_in, what_it_is
from utils.plain_pickle import STORAGES, StandIn, Storage, Unpickler, check_extent

PLAIN_BYTES = 64 << 20  # of memory for plain data, in addition to its size in the file
LIST_BYTES = 8 << 20  # largest list of records of an archive, or of tensors of a .safetensors
PIECE = 1 << 20  # bytes read at once
OPTIMIZER = re.compile("optim|opt$")  # entries of other programs with the state of an optimizer
# The first number in a file of torch.save before torch 1.6, as a pickle stores it.
MAGIC = b"\x8a\x0a" + 0x1950A86A20F9469CFC6C.to_bytes(10, "little")

CUT_OFF = "it ends early: the download or the copy was cut off"
SHARD = re.compile(r"-0*(\d+)-of-0*(\d+)\.(safetensors|bin)$")


def read_torch_file(path: Path) -> Any:
    """Read any file of torch.save, safetensors or flax; the contents decide the format.

    Objects of other programs in the file, such as those of Lightning and argparse, become instances
    of StandIn.

    Returns:
        What was saved, with tensors on the CPU; from safetensors and flax a flat dictionary.

    Raises:
        UserError: if the file is missing or cannot be read, or claims more than it holds.
    """
    with reading(path, "the checkpoint"):
        if path.is_dir():
            raise UserError(f"{path} is a folder{what_is_in(path)}")
        if not path.exists():
            raise UserError(f"checkpoint not found: {path}")
        if not path.is_file():
            raise UserError(f"{path} is a device, pipe or socket; a checkpoint is a file")
        shard = SHARD.search(path.name)
        if shard and int(shard[2]) > 1:
            raise ValueError(
                f"it is part {shard[1]} of {shard[2]} of a checkpoint: load all parts where it was "
                "made, and save them as one file"
            )
        return _read(path, path.stat().st_size)


def is_torch_file(path: Path) -> bool:
    """Whether a file is one of torch.save, of any version, by its first bytes or its records.

    Raises:
        OSError or zipfile.BadZipFile: if it cannot be read.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return any(name.split("/")[-1] == "data.pkl" for name in archive.namelist())
    with path.open("rb") as file:
        return MAGIC in file.read(32)


def pickled_network(stored: Any) -> str | None:
    """Return the class name of a network that was saved as an object; None for other files."""
    values = [stored, *stored.values()] if isinstance(stored, dict) else [stored]
    networks = (v.name for v in values if isinstance(v, StandIn) and v.is_network)
    return next(networks, None)


def read_json(path: Path) -> dict[str, Any]:
    """Read a file of JSON beside a checkpoint.

    Raises:
        ValueError: if it is not an object of JSON, or too large.
        OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        text = file.read(LIST_BYTES + 1)
    try:
        found = json.loads(text) if len(text) <= LIST_BYTES else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} beside it is not an object of JSON")
    return found


def _read(path: Path, size: int) -> Any:
    """Read a file, whichever format it has; raises any exception."""
    with path.open("rb", 0) as raw, _SmallReads(raw) as file:
        beginning = file.read(1024)
        file.seek(0)
        if beginning.startswith(b"PK\x03\x04"):
            return _read_archive(file, size)
        if beginning.startswith(b"\x80"):  # all pickles of torch begin with it
            return _read_old_file(file, size)
        if is_flax(beginning) and not _is_safetensors(beginning):
            try:
                return read_flax(file, size)
            except EOFError as error:
                raise ValueError(CUT_OFF) from error
    if _is_safetensors(beginning):
        length = _list_length(beginning)
        if 8 + length > size:
            raise ValueError(CUT_OFF)
        if length > LIST_BYTES:
            raise ValueError("its list of tensors is too long")
        try:
            return load_file(path)
        except SafetensorError as error:
            raise (ValueError(CUT_OFF) if "not fully covered" in str(error) else error) from error
    raise ValueError(what_it_is(beginning))


def _list_length(beginning: bytes) -> int:
    """The length of the list of tensors of a .safetensors."""
    return int.from_bytes(beginning[:8], "little")


def _is_safetensors(beginning: bytes) -> bool:
    """Whether the first bytes are those of a .safetensors; eight letters are a larger number."""
    return beginning[8:9] == b"{" and _list_length(beginning) < 1 << 40


class _SmallReads(io.BufferedReader):
    """A file that limits the size of a read; its list of contents may claim any size."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > LIST_BYTES:
            raise ValueError("its list of contents is too long")
        return super().read(size)


# --- Archives, as torch.save writes them since torch 1.6 ---


def _read_archive(file: BinaryIO, size: int) -> Any:
    """Read an archive of torch.save, without the state of optimizers; raises any exception."""
    try:
        archive = zipfile.ZipFile(file)
    except zipfile.BadZipFile as error:
        raise ValueError(CUT_OFF) from error
    with archive:
        folder = _folder_of_records(archive, size)
        if f"{folder}constants.pkl" in archive.namelist():
            raise ValueError(
                "it is a program of torch.jit.save; load it with torch.jit.load and save its "
                "state_dict() with torch.save"
            )
        order = f"{folder}byteorder"
        if order in archive.namelist() and _record(archive, order) != b"little":
            raise ValueError("its byte order is big")
        pickle = _record(archive, f"{folder}data.pkl")  # arrays of numpy are in it
        storages = _Storages(size, "it claims more data than it holds")
        machine = Unpickler(storages.claim, PLAIN_BYTES + len(pickle))
        stored = machine.load(io.BytesIO(pickle))
        check_extent(stored, PLAIN_BYTES + 4 * size)
        for name in _optimizers(stored):
            del stored[name]
        used = _addresses(stored)
        for key, storage in storages.items():
            if storage.data.data_ptr() in used:
                with _opened(archive, f"{folder}data/{key}", storage) as record:
                    _fill(storage.data, record)
        return stored


def _folder_of_records(archive: zipfile.ZipFile, size: int) -> str:
    """Return the folder of data.pkl, with a slash, or empty.

    Raises:
        ValueError: if it is not the one folder of a file of torch.save.
    """
    entries, names = archive.infolist(), archive.namelist()
    if len(set(names)) < len(names):
        raise ValueError("two of its records have the same name")
    found = [name for name in names if name.split("/")[-1] == "data.pkl"]
    if len(found) != 1:
        largest = sorted(entries, key=lambda entry: -entry.file_size)[:3]
        shown = ", ".join(entry.filename for entry in largest)
        kind = "of numpy, with" if shown.endswith(".npy") else "with"
        raise ValueError(f"it is an archive {kind} {shown}: unpack it first")
    stored = [entry for entry in entries if entry.compress_type == zipfile.ZIP_STORED]
    if sum(entry.file_size for entry in stored) > size:
        raise ValueError("it claims to hold more than its size")
    return found[0].removesuffix("data.pkl")


def _opened(archive: zipfile.ZipFile, name: str, storage: Storage | None = None) -> IO[bytes]:
    """Open a record; ValueError if it is packed, or does not have the size of the storage."""
    entry = archive.getinfo(name)
    if entry.compress_type != zipfile.ZIP_STORED:
        raise ValueError(
            "its records are packed, which torch.save does not do: unpack it, and pack it again "
            "without compression (zip -0 -r)"
        )
    if storage is not None:
        _check_size(storage, entry.file_size)
    if entry.CRC == 0:  # torch can omit it
        entry.CRC = None  # type: ignore[assignment] # then zipfile does not compare it
    return archive.open(entry)


def _record(archive: zipfile.ZipFile, name: str) -> bytes:
    """Read a record that is not the data of a storage."""
    with _opened(archive, name) as record:
        return _read_bytes(record, archive.getinfo(name).file_size)


def _optimizers(stored: Any) -> list[str]:
    """Return the names of the outer entries of a file with the state of an optimizer."""
    entries = stored.items() if isinstance(stored, dict) else ()
    texts = [
        name for name, value in entries if isinstance(name, str) and not isinstance(value, Tensor)
    ]
    return [name for name in texts if OPTIMIZER.match(name.lower())]


def _addresses(value: Any) -> set[int]:
    """Return where the data of all tensors in nested containers begin."""
    if isinstance(value, Tensor):
        return {value.untyped_storage().data_ptr()}
    inside = value.values() if isinstance(value, Mapping) else value
    is_container = isinstance(value, Mapping | list | tuple | set)
    return set().union(*map(_addresses, inside)) if is_container else set()


class _Storages(dict[Any, Storage]):
    """The storages that the pickles of a file refer to, by key; their data are read afterwards.

    Until then they take no memory, because the system assigns it when it is first written.
    """

    def __init__(self, most_bytes: int, too_much: str) -> None:
        super().__init__()
        self._left, self._too_much = most_bytes, too_much

    def claim(self, reference: tuple[Any, ...]) -> Storage:
        """Return a storage by its reference in a pickle.

        Args:
            reference: ("storage", type, key, device, number of elements), and before torch 1.6 None
                or a view, whose second entry is the first element.

        Raises:
            ValueError: if the reference is wrong, or all storages together exceed the file.
        """
        _, kind, key, _, count, *view = reference
        if not isinstance(kind, StandIn) or kind.name not in STORAGES:
            raise ValueError("it holds data of an unknown type")
        if type(key) not in (str, int) or type(count) is not int or count < 0:
            raise ValueError("it refers to something other than a storage")
        dtype = STORAGES[kind.name]
        if key not in self:
            self._left -= count * dtype.itemsize
            if self._left < 0:
                raise ValueError(self._too_much)
            self[key] = Storage(torch.empty(count * dtype.itemsize, dtype=torch.uint8), dtype)
        return Storage(self[key].data, dtype, view[0][1] if view and view[0] is not None else 0)


def _check_size(storage: Storage, found: int) -> None:
    """Raise a ValueError if the file holds another number of bytes for a storage."""
    if found != storage.data.numel():
        raise ValueError(f"it claims {storage.data.numel()} bytes of data where it holds {found}")


def _read_bytes(file: IO[bytes], size: int) -> bytes:
    """Read a number of bytes."""
    _fill(data := torch.empty(size, dtype=torch.uint8), file)
    return bytes(data.numpy())


def _fill(data: Tensor, file: IO[bytes]) -> None:
    """Read bytes into uint8 (N,)."""
    view = data.numpy().data
    for start in range(0, len(view), PIECE):
        piece = file.read(min(PIECE, len(view) - start))
        if len(piece) < min(PIECE, len(view) - start):
            raise ValueError(CUT_OFF)
        view[start : start + PIECE] = piece


# --- Series of pickles, as torch.save wrote them before torch 1.6 ---


def _read_old_file(file: BinaryIO, size: int) -> Any:
    """Read a file with its storages after the pickles; raises any exception."""
    # The pickles: a number, the version, the machine, the contents, the keys of the storages.
    stream = io.BytesIO(_read_bytes(file, min(size, PLAIN_BYTES)))
    if MAGIC not in stream.read(32):
        raise ValueError(
            "it is a pickle, but not of torch.save: load it where it was made, if you trust "
            "it, and save its state dict with torch.save"
        )
    storages = _Storages(size, CUT_OFF)
    machine = Unpickler(storages.claim, PLAIN_BYTES)
    stream.seek(0)
    try:
        _, _, system, stored, keys = (machine.load(stream) for _ in range(5))
    except ValueError as error:
        is_cut = stream.tell() == size  # otherwise the file is wrong, not cut off
        raise (ValueError(CUT_OFF) if is_cut else error) from error
    if not system["little_endian"]:
        raise ValueError("its byte order is big")
    # The storages, each after its number of elements.
    file.seek(stream.tell())
    for key in keys:
        storage = storages.pop(key)
        count = int.from_bytes(_read_bytes(file, 8), "little")
        _check_size(storage, count * storage.dtype.itemsize)
        _fill(storage.data, file)
    if storages:
        raise ValueError("it claims data that it does not hold")
    check_extent(stored, PLAIN_BYTES + 4 * size)
    return stored

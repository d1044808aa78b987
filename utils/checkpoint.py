"""Checkpoint files that describe themselves and are safe to open.

A checkpoint is a nested dictionary of tensors and plain data. torch.save writes it, and
torch.load(weights_only=True), which runs no code, reads it. Beside its contents a file holds its
kind, the versions of the format and of the program, and checksums of every tensor and of the plain
data. So damage is noticed, and the message names the damaged part.
"""

import hashlib
import io
import json
import mmap
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO

import torch
from safetensors.torch import load_file
from torch import Tensor

from utils.errors import UserError, one_line
from utils.files import atomic_write
from utils.version import VERSION

FORMAT = "maskgit-checkpoint"
FORMAT_VERSION = 2


def _name_families(kind: str, contents: dict[str, Any]) -> dict[str, Any]:
    """Add the families of the models, which files of version 1 do not name.

    In version 1 every transformer is of the family "maskgit" and every tokenizer a VQ-GAN. Entries
    that are not as they should be stay as they are: those who read them say what is wrong.
    """
    if kind not in ("maskgit", "vqgan"):
        return contents
    named = {**contents, "family": "maskgit"} if kind == "maskgit" else dict(contents)
    if isinstance(named.get("tokenizer"), Mapping):
        named["tokenizer"] = {"family": "vqgan", **named["tokenizer"]}
    return named


# For each older version, what turns the contents of a file (kind, contents) into those of the next
# version. There is one for every older version, so that all files can be opened.
UPGRADES: dict[int, Callable[[str, dict[str, Any]], dict[str, Any]]] = {1: _name_families}
KINDS = {  # how messages name the kinds
    "maskgit": "a trained transformer",
    "vqgan": "a trained VQ-GAN (`checkpoint_vae`)",
    "maskgit-resume": "the state of a training (`resume` goes on with it)",
    "vqgan-resume": "the state of a training (`resume` goes on with it)",
}
PLAIN_DATA = "(plain data)"
GROWING = b"bytearray"  # torch's safe reader makes one of any size that a file asks for


def save_checkpoint(path: Path, kind: str, contents: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically.

    Args:
        path: the file.
        kind: what it holds, a key of KINDS; `load_checkpoint` refuses to read it as another kind.
        contents: nested dictionaries with string keys, lists, tensors and plain data.

    Raises:
        UserError: if the file cannot be written; an earlier one stays intact.
    """
    file_contents = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "program_version": VERSION,
        "kind": kind,
        "checksums": _checksums(contents),
        "contents": dict(contents),
    }
    with atomic_write(path) as file:
        torch_save(file_contents, file)


def torch_save(contents: Any, file: BinaryIO) -> None:
    """Call torch.save, but raise the OSError of a failed write.

    torch.save itself raises a RuntimeError that does not say what went wrong.
    """
    writer = _Writer(file)
    try:
        torch.save(contents, writer)  # type: ignore[arg-type] # all it calls is there
    except RuntimeError:
        if writer.error is not None:
            raise writer.error from None
        raise


class _Writer(io.RawIOBase):
    """Passes bytes on to a file and keeps the error of a failed write."""

    def __init__(self, file: BinaryIO) -> None:
        self.error: OSError | None = None
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise


def load_checkpoint(path: Path, kind: str) -> dict[str, Any]:
    """Read a checkpoint of this program and verify it.

    Args:
        path: the file.
        kind: the expected kind.

    Returns:
        The contents as they were saved, tensors on the CPU.

    Raises:
        UserError: if the file is missing, damaged, of another format, version or kind.
    """
    return contents_of(read_torch_file(path), path, kind)


def is_own_format(stored: Any) -> bool:
    """Whether what `read_torch_file` returned was written by this program."""
    return isinstance(stored, dict) and stored.get("format") == FORMAT


def contents_of(stored: Any, path: Path, kind: str) -> dict[str, Any]:
    """Verify what `read_torch_file` returned and take out the contents.

    Args:
        stored: what the file holds.
        path: the file, for messages.
        kind: the expected kind.

    Returns:
        The contents in the present version of the format.

    Raises:
        UserError: as `load_checkpoint`.
    """
    # Whether this program can read it at all, and as this kind.
    if not is_own_format(stored):
        raise UserError(f"{path} is not a checkpoint of this program")
    version = stored.get("format_version")
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise UserError(
            f"{path} has checkpoint format version {version!r}; this program ({VERSION}) reads "
            f"versions up to {FORMAT_VERSION}"
        )
    if stored.get("kind") != kind:
        stored_kind = stored.get("kind")
        what = KINDS.get(stored_kind, f"a {stored_kind!r} checkpoint")
        raise UserError(f"{path} is {what} where {KINDS.get(kind, repr(kind))} is needed")
    # Whether it is intact: the checksums are those of the contents as they were written.
    contents, expected = stored.get("contents"), stored.get("checksums")
    if not isinstance(contents, dict) or not isinstance(expected, dict):
        raise UserError(f"{path} is damaged: its contents are missing")
    found = _checksums(contents)
    damaged = sorted(k for k in {*found, *expected} if found.get(k) != expected.get(k))
    if damaged:
        raise UserError(f"{path} is damaged: {damaged[0]} does not match its checksum")
    # From version to version to the present one.
    for older in range(version, FORMAT_VERSION):
        contents = UPGRADES[older](kind, contents)
    return contents


def read_torch_file(path: Path) -> Any:
    """Read any file of torch.save, or a .safetensors, without running code from it.

    Objects of other programs, such as those of Lightning and argparse beside the weights, become
    empty objects. A file that claims to hold more than its size is refused, so that reading takes
    no more memory than the file has bytes.

    Args:
        path: the file.

    Returns:
        What was saved, with tensors on the CPU; for a .safetensors the dictionary of its tensors.

    Raises:
        UserError: if the file is missing or cannot be read, or claims more than it holds.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder; name the checkpoint in it")
    if not path.is_file():
        raise UserError(f"checkpoint not found: {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals([(_Ignored, n) for n in _foreign_names(path)]):
            stored = torch.load(path, map_location="cpu", weights_only=True)
        _check_sizes(stored, path)
    except Exception as error:
        # A damaged file can fail anywhere in the reader, with any exception.
        reason = one_line(error, 200)
        hint = ""
        if isinstance(error, UnpicklingError) and not zipfile.is_zipfile(path):
            reason = "it is not a file of torch.save"
            hint = (
                "; if it is an old checkpoint that you trust, load it where it was made and save "
                "its state dict with a recent torch.save"
            )
        raise UserError(f"{path} cannot be read as a checkpoint: {reason}{hint}") from error
    return stored


class _Ignored:
    """Stands for an object of another program in its checkpoint, and does nothing."""

    def __init__(self, *args: object, **kwargs: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


def _foreign_names(path: Path) -> list[str]:
    """List the names in a file that torch's safe reader would refuse.

    Raises:
        ValueError: if reading would take more memory than the file has bytes.
    """
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data.find(GROWING) >= 0:
                raise ValueError(f"it asks for a {GROWING.decode()}")
        return []
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise ValueError("it claims to hold more than its size")
        if any(GROWING in archive.read(e) for e in entries if e.filename.endswith(".pkl")):
            raise ValueError(f"it asks for a {GROWING.decode()}")
    return torch.serialization.get_unsafe_globals_in_checkpoint(path)


def _check_sizes(stored: Any, path: Path) -> None:
    """Refuse tensors that are larger than their data; a copy of one would fill the memory.

    Raises:
        ValueError: naming such a tensor.
    """
    storages = {}
    for tensor in _tensors(stored):
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise ValueError(f"it holds a tensor of an unknown kind ({tensor.layout})")
        storage = tensor.untyped_storage()
        if tensor.numel() * tensor.element_size() > storage.nbytes():
            raise ValueError(f"it holds a tensor of shape {tuple(tensor.shape)} without data")
        storages[storage.data_ptr()] = storage.nbytes()
    if zipfile.is_zipfile(path):
        # Some versions of torch, 2.6 for one, believe a size that differs from that of the record.
        with zipfile.ZipFile(path) as archive:
            records = Counter(entry.file_size for entry in archive.infolist())
        invented = Counter(filter(None, storages.values())) - records
        if invented:
            raise ValueError(f"it claims {max(invented)} bytes of data that it does not hold")


def _tensors(stored: Any) -> Iterator[Tensor]:
    """Yield every tensor in nested containers once; containers may hold each other in a loop."""
    waiting, seen = [stored], set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, Mapping):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple | set):
            waiting += value


def weights_digest(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> str:
    """Compute the fingerprint of a model: 16 hexadecimal digits of config and weights."""
    digest = hashlib.sha256(json.dumps(dict(config), sort_keys=True, default=list).encode())
    for name in sorted(weights):
        digest.update(f"{name}:{_tensor_checksum(weights[name])}".encode())
    return digest.hexdigest()[:16]


def _checksums(contents: Mapping[str, Any]) -> dict[str, str]:
    """Compute the checksums of every tensor, by its path, and of all plain data together."""
    tensors = {}
    plain = []
    for name, value in _leaves(contents, ""):
        if isinstance(value, Tensor):
            tensors[name] = _tensor_checksum(value)
        else:
            plain.append((name, repr(value)))
    plain_digest = hashlib.sha256(json.dumps(plain).encode()).hexdigest()[:16]
    return {**tensors, PLAIN_DATA: plain_digest}


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield the path and value of everything in nested containers, and the type of each one."""
    if isinstance(value, Mapping):
        # Keys may be integers, as in the state of an optimiser.
        items = [(f"{name}/{key}" if name else str(key), entry) for key, entry in value.items()]
    elif isinstance(value, list | tuple):
        items = [(f"{name}/{index}", entry) for index, entry in enumerate(value)]
    else:
        yield name, value
        return
    yield name, type(value).__name__
    for item_name, entry in items:
        yield from _leaves(entry, item_name)


def _tensor_checksum(tensor: Tensor) -> str:
    """Hash the dtype, shape and bytes of a tensor."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]

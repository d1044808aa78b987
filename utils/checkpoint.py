"""Checkpoint files that describe themselves and are safe to open.

A checkpoint is a nested dictionary of tensors and plain data, written by torch.save and read by
torch.load(weights_only=True), which runs no code. Beside its contents it holds what kind of
checkpoint it is, the version of the format and of the program, and a checksum of every tensor and
of the plain data, so that a damaged file is noticed and the damaged part named.
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
FORMAT_VERSION = 1
# From the contents (kind, contents) of a version to those of the next, for every version before the
# present one: files of all of them open for ever.
UPGRADES: dict[int, Callable[[str, dict[str, Any]], dict[str, Any]]] = {}
KINDS = {  # for people
    "maskgit": "a trained transformer",
    "vqgan": "a trained VQ-GAN (--checkpoint_vae)",
    "maskgit-resume": "the state of a training (--resume goes on with it)",
    "vqgan-resume": "the state of a training (--resume goes on with it)",
}
PLAIN_DATA = "(plain data)"
GROWING = b"bytearray"  # torch's safe reader calls it with any size that a pickle names


def save_checkpoint(path: Path, kind: str, contents: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically.

    Args:
        path: the file.
        kind: what it holds, e.g. "maskgit" or "vqgan"; reading it as another kind is refused.
        contents: nested dictionaries with string keys, lists, tensors and plain data.

    Raises:
        UserError: if the file cannot be written; a previous one is intact.
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
    """As torch.save, with the OSError of a failed write, which torch.save replaces by its own."""
    writer = _Writer(file)
    try:
        torch.save(contents, writer)  # type: ignore[arg-type] # all it calls is there
    except RuntimeError:
        if writer.error is not None:
            raise writer.error from None
        raise


class _Writer(io.RawIOBase):
    """Passes bytes on to a file and remembers what went wrong."""

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
    """Verify what `read_torch_file` returned and unwrap it; as `load_checkpoint`."""
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
    contents, expected = stored.get("contents"), stored.get("checksums")
    if not isinstance(contents, dict) or not isinstance(expected, dict):
        raise UserError(f"{path} is damaged: its contents are missing")
    found = _checksums(contents)
    damaged = sorted(k for k in {*found, *expected} if found.get(k) != expected.get(k))
    if damaged:
        raise UserError(f"{path} is damaged: {damaged[0]} does not match its checksum")
    for older in range(version, FORMAT_VERSION):
        contents = UPGRADES[older](kind, contents)
    return contents


def read_torch_file(path: Path) -> Any:
    """Read any file of torch.save, or a .safetensors, without running code from it.

    Objects of other programs, as Lightning and argparse leave them beside the weights, become empty
    stand-ins. What a file claims to hold is bounded by what it holds: the memory that reading takes
    does not exceed the size of the file.

    Args:
        path: the file.

    Returns:
        What was saved, tensors on the CPU; of a .safetensors the dictionary of its tensors.

    Raises:
        UserError: if the file is missing or no such file, or claims more than it holds.
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
    """Stands for the objects of other programs in their checkpoints, and does nothing."""

    def __init__(self, *args: object, **kwargs: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


def _foreign_names(path: Path) -> list[str]:
    """Names of what torch's safe reader would refuse.

    Raises:
        ValueError: if the file would grow while it is read.
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
    """Refuse tensors that are larger than their data, which any copy would have to fill.

    Raises:
        ValueError: if there are such tensors.
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
        # Older versions of torch, 2.6 among them, believe a size that is not that of the record.
        with zipfile.ZipFile(path) as archive:
            records = Counter(entry.file_size for entry in archive.infolist())
        invented = Counter(filter(None, storages.values())) - records
        if invented:
            raise ValueError(f"it claims {max(invented)} bytes of data that it does not hold")


def _tensors(stored: Any) -> Iterator[Tensor]:
    """Every tensor in nested containers, once; the nesting may have loops."""
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
    """Fingerprint of a model: equal exactly if its configuration and its weights are equal."""
    digest = hashlib.sha256(json.dumps(dict(config), sort_keys=True, default=list).encode())
    for name in sorted(weights):
        digest.update(f"{name}:{_tensor_checksum(weights[name])}".encode())
    return digest.hexdigest()[:16]


def _checksums(contents: Mapping[str, Any]) -> dict[str, str]:
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
    if isinstance(value, Mapping):
        # The type of a key counts: an optimiser's state has integer keys.
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
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]

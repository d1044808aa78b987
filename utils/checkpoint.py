"""Checkpoint files that describe themselves and are safe to open.

A checkpoint is a nested dictionary of tensors and plain data. torch.save writes it; to publish it,
it is written as a folder of two files. utils/torch_file.py, which runs no code, reads it;
torch.load(weights_only=True) can read it too. Besides its contents a file holds its kind, the
versions of the format and of the program, and checksums of every tensor and of the plain data. So
damage is found, and the message names the damaged part.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from utils.errors import UserError, one_line, reading
from utils.files import atomic_write, write_json_atomic
from utils.plain import NOTHING
from utils.torch_file import read_json, read_torch_file
from utils.version import VERSION

FORMAT = "maskgit-checkpoint"
FORMAT_VERSION = 2
PLAIN_DATA = "(plain data)"
WEIGHTS, DESCRIPTION = "model.safetensors", "config.json"  # the files of a folder
Module = TypeVar("Module", bound=nn.Module)


def save_checkpoint(path: Path, kind: str, contents: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically.

    Args:
        path: the file.
        kind: name of the kind of contents; `load_checkpoint` refuses to read it as another kind.
        contents: nested dictionaries with string keys, lists, tensors and plain data.

    Raises:
        UserError: if the file cannot be written; an earlier one stays intact.
    """
    with atomic_write(path) as file:
        torch_save(_described(kind, contents), file)


def save_folder(folder: Path, kind: str, contents: Mapping[str, Any]) -> None:
    """Write a checkpoint as two files: the tensors as safetensors, and all else as JSON.

    Args:
        folder: the folder; it must exist.
        kind: as in `save_checkpoint`.
        contents: as there, without tuples, and with tensors in inner dictionaries only.

    Raises:
        UserError: if a file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    plain = {**_described(kind, contents), "contents": _without_tensors(contents, "", tensors)}
    with atomic_write(folder / WEIGHTS) as file:
        file.write(safetensors.torch.save(tensors, {"format": "pt"}))
    write_json_atomic(folder / DESCRIPTION, plain)


def read_checkpoint(path: Path) -> Any:
    """Read any file as `read_torch_file` does; one of `save_folder` together with the other.

    Raises:
        UserError: as `read_torch_file`; or if the two files do not belong together.
    """
    stored, beside = read_torch_file(path), path.with_name(DESCRIPTION)
    # Only `save_folder` writes tensors alone, and all of them with a slash in the name.
    if not (isinstance(stored, dict) and stored and all("/" in str(name) for name in stored)):
        return stored
    with reading(path, "the checkpoint"):
        if not beside.is_file():
            raise UserError(
                f"{path} holds tensors only: put the {DESCRIPTION} that came with it beside it"
            )
        plain = read_json(beside)
        if not is_own_format(plain) or not isinstance(plain.get("contents"), dict):
            raise UserError(f"{beside} is not the one that came with {path.name}: put that there")
        _put_back(stored, plain["contents"])
        return plain


def _described(kind: str, contents: Mapping[str, Any]) -> dict[str, Any]:
    """Return contents with what a file says about itself."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "program_version": VERSION,
        "kind": kind,
        "contents": contents,
        "checksums": _checksums(contents),
    }


def _without_tensors(value: Mapping[str, Any], name: str, tensors: dict[str, Tensor]) -> Any:
    """Copy nested dictionaries without their tensors, which `tensors` takes, by path."""
    plain = {}
    for key, entry in value.items():
        if isinstance(entry, Tensor):
            tensors[name + key] = entry.cpu().contiguous()
        else:
            is_inner = isinstance(entry, Mapping)
            plain[key] = _without_tensors(entry, f"{name}{key}/", tensors) if is_inner else entry
    return plain


def _put_back(tensors: Mapping[str, Tensor], contents: dict[str, Any]) -> None:
    """Put the tensors that `_without_tensors` took back into their places in the contents."""
    for path, tensor in tensors.items():
        *outer, name = path.split("/")
        place = contents
        for key in outer:
            place = place[key]
        place[name] = tensor


def torch_save(contents: Any, file: BinaryIO) -> None:
    """Call torch.save, but raise the OSError of a failed write.

    torch.save itself raises a RuntimeError that does not name the cause.
    """
    writer = _Writer(file)
    try:
        torch.save(contents, writer)  # type: ignore[arg-type] # it has all that torch.save calls
    except RuntimeError:
        if writer.error is not None:
            raise writer.error from None
        raise


class _Writer(io.RawIOBase):
    """Writes bytes to a file and keeps the error of a failed write."""

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

    Returns:
        The contents as they were saved, tensors on the CPU.

    Raises:
        UserError: if the file is missing, damaged, of another format, version or kind.
    """
    return contents_of(read_checkpoint(path), path, kind)


def is_own_format(stored: Any) -> bool:
    """Whether what `read_torch_file` returned was written by this program."""
    found = stored.get("format") if isinstance(stored, dict) else None
    return type(found) is str and found == FORMAT


def contents_of(
    stored: Any, path: Path, kind: str, kinds: Mapping[str, str] = NOTHING
) -> dict[str, Any]:
    """Verify the return value of `read_torch_file`, and return the contents.

    Args:
        stored: the return value of `read_torch_file`.
        path: the file, for messages.
        kind: the expected kind.
        kinds: descriptions of kinds for messages, by name.

    Returns:
        The contents as they were saved. The caller knows what older versions lack.

    Raises:
        UserError: as `load_checkpoint`.
    """
    with reading(path, "the checkpoint"):
        _check_kind(stored, path, kind, kinds)
        contents, expected = stored.get("contents"), stored.get("checksums")
        if not isinstance(contents, dict) or not isinstance(expected, dict):
            raise UserError(f"{path} is damaged: its contents are missing")
        found = _checksums(contents)
        damaged = {name for name in {*found, *expected} if found.get(name) != expected.get(name)}
        if damaged:
            first = one_line(ValueError(min(damaged, key=str)))
            is_beside = first == PLAIN_DATA and path.suffix == ".safetensors"
            file = path.with_name(DESCRIPTION) if is_beside else path
            raise UserError(f"{file} is damaged: {first} does not match its checksum")
        return contents


def _check_kind(stored: Any, path: Path, kind: str, kinds: Mapping[str, str]) -> None:
    """Refuse files of other formats, versions and kinds."""
    if not is_own_format(stored):
        raise UserError(f"{path} is not a checkpoint of this program")
    version, stored_kind = stored.get("format_version"), stored.get("kind")
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        shown = version if type(version) is int else f"of type {type(version).__name__}"
        raise UserError(
            f"{path} has checkpoint format version {shown}; this program ({VERSION}) reads "
            f"versions up to {FORMAT_VERSION}"
        )
    if type(stored_kind) is not str:
        raise UserError(f"{path} is damaged: it does not say what it holds")
    if stored_kind != kind:
        what, needed = (kinds.get(k, f"a {k[:40]!r} checkpoint") for k in (stored_kind, kind))
        raise UserError(f"{path} is {what} where {needed} is needed")


# --- Weights of a module ---


def build_with_weights(build: Callable[[], Module], weights: Mapping[str, Tensor]) -> Module:
    """Build a module on the CPU, in evaluation mode, from a state dict.

    The module is built without memory and takes over the given tensors. So a configuration that
    needs more than the file holds is refused before any memory is allocated.

    Raises:
        ValueError: in one line, if the module cannot be built or the weights are not its own.
    """
    try:
        module = on_meta(build)
        check_weights(module.state_dict(), weights)
        module.load_state_dict(weights, assign=True)
    except Exception as error:
        # A damaged configuration can fail in any way.
        raise ValueError(one_line(error)) from error
    return module.eval()


def on_meta(build: Callable[[], Module]) -> Module:
    """Build a module without memory."""
    with torch.device("meta"), _UnfilledEmbeddings():
        return build()


class _UnfilledEmbeddings(TorchFunctionMode):
    """Leaves out the initial values of embeddings.

    On the meta device there is nothing to fill, but torch would load its compiler for it (1 s).
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call any function but `normal_`."""
        return None if func is nn.init.normal_ else func(*args, **(kwargs or {}))


def check_weights(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Check that the found tensors are finite and have the names, shapes and dtypes expected.

    Raises:
        ValueError: naming the first tensor that is wrong.
    """
    if not isinstance(found, Mapping):
        raise ValueError(f"{type(found).__name__} instead of weights")
    for name, tensor in expected.items():
        value = found.get(name)
        if not isinstance(value, Tensor):
            raise ValueError(f"{name} is missing")
        if value.shape != tensor.shape or value.dtype != tensor.dtype:
            raise ValueError(f"{name} is {_kind(value)} instead of {_kind(tensor)}")
        if not value.isfinite().all():
            raise ValueError(f"{name} has values that are not finite")
    for name in found:
        if name not in expected:
            raise ValueError(f"{name} is not part of it")


def _kind(tensor: Tensor) -> str:
    """Name the dtype and the shape of a tensor, for a message."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def weights_digest(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> str:
    """Compute the fingerprint of a model: 16 hexadecimal digits of plain config and weights."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
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
    """Yield path and value of all leaves of nested containers, and the type of each container."""
    if isinstance(value, Mapping):
        # Keys may be integers, as in the state of an optimizer.
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

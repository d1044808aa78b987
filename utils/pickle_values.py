"""What a pickle may make: tensors that lie in their data, plain data, and empty stand-ins."""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MOST_LEVELS = 100  # of containers in containers; what uses them may be recursive
MOST_KEY_BITS = 63  # larger numbers can be chosen so that a dictionary takes forever
MOST_AXES = 64  # as torch has it
ENTRY_BYTES = 64  # of an entry in a container, in `check_extent`

DTYPES = {
    f"torch.{name}": getattr(torch, name)
    for name in (
        "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8",
        "bool", "complex64", "complex128", "uint16", "uint32", "uint64", "float8_e4m3fn",
        "float8_e5m2",
    )
}  # fmt: skip
NUMPY_DTYPES = {  # by numpy's short names
    "f8": torch.float64, "f4": torch.float32, "f2": torch.float16, "i8": torch.int64,
    "i4": torch.int32, "i2": torch.int16, "i1": torch.int8, "u8": torch.uint64, "u4": torch.uint32,
    "u2": torch.uint16, "u1": torch.uint8, "b1": torch.bool,
}  # fmt: skip
STORAGES = {  # the names of storages, and the type of their elements
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
    "torch.ComplexFloatStorage": torch.complex64,
    "torch.ComplexDoubleStorage": torch.complex128,
    "torch.storage.UntypedStorage": torch.uint8,
}


class StandIn:
    """Stands for a class, a function or an object of another program, and holds nothing of it.

    Attributes:
        name: name of the class or function, with its module.
        is_network: whether it was a whole torch module.
    """

    __slots__ = ("is_network", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_network = False


@dataclass(frozen=True)
class Storage:
    """The data of tensors.

    Attributes:
        data: uint8 (N,).
        dtype: type of the elements.
        start: the element that counts as the first.
    """

    data: Tensor
    dtype: torch.dtype
    start: int = 0


def _tensor(
    storage: Any, offset: Any, size: Any, stride: Any, dtype: torch.dtype | None = None
) -> Tensor:
    """Build a tensor that lies within its storage."""
    numbers = (offset, *size, *stride)
    is_shape = all(type(number) is int and 0 <= number < 1 << 63 for number in numbers)
    if not isinstance(storage, Storage) or not is_shape or len(numbers) > 2 * MOST_AXES + 1:
        raise ValueError("it holds a tensor without a shape")
    dtype = dtype or storage.dtype
    held = storage.data.numel() // dtype.itemsize
    first, count = storage.start + offset, math.prod(size)
    steps = sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if count > held or (count and first + steps >= held):
        raise ValueError(f"it holds a tensor of shape {tuple(size)} without data")
    untyped = storage.data.untyped_storage()
    return torch.empty(0, dtype=dtype).set_(untyped, first if count else 0, size, stride)


def _tensor_2(*arguments: Any) -> Tensor:
    """Build what _rebuild_tensor_v2 of torch would build; behind are gradients and hooks."""
    if any(arguments[6:]):
        raise ValueError("it holds a tensor of an unknown kind (conjugate or negative)")
    storage, offset, size, stride, *_ = arguments
    return _tensor(storage, offset, size, stride)


def _tensor_3(*arguments: Any) -> Tensor:
    """Build what _rebuild_tensor_v3 of torch would build; the seventh argument is the dtype."""
    storage, offset, size, stride, _, _, dtype, *rest = arguments
    if not isinstance(dtype, StandIn) or dtype.name not in DTYPES or any(rest):
        raise ValueError("it holds a tensor of an unknown kind")
    return _tensor(storage, offset, size, stride, DTYPES[dtype.name])


def _parameter(data: Any, *_: Any) -> Tensor:
    """Take the tensor of a parameter."""
    if not isinstance(data, Tensor):
        raise ValueError("it holds a parameter without data")
    return data


def _tensor_with_attributes(function: Any, kind: Any, arguments: Any, *_: Any) -> Any:
    """Build a tensor without its attributes, or a stand-in for a class of tensors of others."""
    if kind.name not in ("torch.Tensor", "torch.nn.parameter.Parameter"):
        return StandIn(kind.name)
    return FUNCTIONS[function.name](*arguments)


def _ordered(pairs: Any = ()) -> OrderedDict[Any, Any]:
    """Build an OrderedDict, from pairs in pickles of Python 2."""
    return OrderedDict((checked_key(key), value) for key, value in pairs)


def _encoded(text: Any, codec: Any = None) -> bytes:
    """Make the bytes that protocol 2 writes as text; no other codec, as some can grow a text."""
    if type(text) is not str or codec not in ("latin1", "latin-1"):
        raise ValueError(f"it encodes a {type(text).__name__} in something other than latin1")
    return text.encode("latin1")


def _set(items: Any = ()) -> set[Any]:
    """Build a set from a list."""
    if type(items) not in (list, tuple):
        raise ValueError(f"it makes a set of a {type(items).__name__}")
    return set(map(checked_key, items))


def _size(lengths: Any = ()) -> torch.Size:
    """Build the shape of a tensor."""
    if type(lengths) is not tuple or any(type(length) is not int for length in lengths):
        raise ValueError("it holds a shape without lengths")
    return torch.Size(lengths)


def array_data(shape: Any, dtype: Any, by_columns: Any, data: Any) -> Tensor:
    """Build the tensor of an array of numpy, whose bytes are in the pickle.

    Raises:
        ValueError: if they are not the bytes of its shape.
    """
    is_shape = type(shape) is tuple and len(shape) <= MOST_AXES
    if not is_shape or not all(type(length) is int and length >= 0 for length in shape):
        raise ValueError("it holds an array without a shape")
    if type(data) is not bytes or len(data) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"it holds an array of shape {shape} without data")
    flat = torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)
    axes = range(len(shape))[::-1]
    return flat.view(shape[::-1]).permute(*axes) if by_columns else flat.view(shape)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor_2,
    "torch._utils._rebuild_tensor_v3": _tensor_3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _tensor_with_attributes,
    "torch.Size": _size,
    "collections.OrderedDict": _ordered,
    "collections.defaultdict": lambda *_: {},
    "builtins.set": _set,
    "builtins.bytes": lambda *parts: StandIn("builtins.bytes") if parts else b"",
    "_codecs.encode": _encoded,
    # An array of numpy is made empty, and gets its data as its state (`array_data`).
    "numpy.core.multiarray._reconstruct": lambda *_: torch.empty(0),
    "numpy.dtype": lambda name, *_: NUMPY_DTYPES.get(name) or StandIn(f"numpy.dtype {name}"),
}


def checked_key(key: Any) -> Any:
    """Return a key that is quick to compare: text, a number, a stand-in, or a tuple of these.

    Raises:
        ValueError: for others. A tuple of tuples of tuples can take hours to compare.
    """
    for part in key if type(key) is tuple else (key,):
        is_plain = part is None or type(part) in (str, bytes, int, float, bool, StandIn)
        if not is_plain or (type(part) is int and part.bit_length() > MOST_KEY_BITS):
            raise ValueError(f"it has a {type(part).__name__} as the key of a dictionary or set")
    return key


def check_extent(value: Any, most_bytes: int) -> None:
    """Refuse containers that hold themselves, go too deep, or are large once written out.

    A list that holds a list twice, which holds a list twice, and so on, is small in memory. But who
    walks through it sees each entry as often as it can be reached.

    Args:
        value: what was read.
        most_bytes: size of all that can be reached, and of the path to it, each time it is reached.

    Raises:
        ValueError: saying which.
    """
    waiting = [(value, 1, 0)]  # with the level, and the length of the path
    while waiting:
        value, level, path = waiting.pop()
        most_bytes -= ENTRY_BYTES + path
        if isinstance(value, Tensor):
            most_bytes -= value.numel() * value.element_size()
        elif isinstance(value, str | bytes):
            most_bytes -= len(value)
        elif isinstance(value, Mapping | list | tuple | set):
            if level > MOST_LEVELS:
                raise ValueError(
                    f"its containers hold themselves, or are nested over {MOST_LEVELS} levels deep"
                )
            most_bytes -= ENTRY_BYTES * len(value)
            if most_bytes >= 0:
                waiting += [(entry, level + 1, path + size) for entry, size in _entries(value)]
        if most_bytes < 0:
            raise ValueError("its containers repeat what they hold too often")


def _entries(container: Any) -> Iterable[tuple[Any, int]]:
    """Return what a container holds, each with the length of its key as a text."""
    if isinstance(container, Mapping):
        # A tuple is no path. Its length is that of its parts, which are plain.
        return [(entry, len(str(key))) for key, entry in container.items()]
    return [(entry, len(str(len(container)))) for entry in container]

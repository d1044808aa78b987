"""Reads pickles that hold tensors, arrays and plain data, and nothing else.

A pickle is a program for a small machine with a stack. This machine has only the instructions that
such data needs. It imports nothing and calls nothing that a file names: tensors are built here, and
objects of other programs become empty stand-ins. The size of the result is limited, so that a small
file cannot fill the memory or keep the program busy for hours. docs/architecture.md says why
torch's own reader (weights_only) is not enough.
"""

import math
import pickletools
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

# A rough upper bound of the memory that one instruction takes, without its text or bytes.
INSTRUCTION_BYTES = 128
MOST_KEY_BITS = 63  # a dictionary can take forever with chosen larger numbers
MOST_AXES = 64  # torch's limit
ENTRY_BYTES = 64  # of an entry in a container, in `check_extent`
MOST_LEVELS = 100  # of containers in containers; the code that uses them may be recursive
# Other names of modules: in Python 2, and in numpy since 2.0.
MOVED = {
    "__builtin__": "builtins",
    "numpy._core.multiarray": "numpy.core.multiarray",
    "numpy._core.numeric": "numpy.core.numeric",
}

TYPES = {  # of elements: the name of the storage of torch, and the short name of numpy
    torch.float64: ("DoubleStorage", "f8"),
    torch.float32: ("FloatStorage", "f4"),
    torch.float16: ("HalfStorage", "f2"),
    torch.bfloat16: ("BFloat16Storage", ""),
    torch.int64: ("LongStorage", "i8"),
    torch.int32: ("IntStorage", "i4"),
    torch.int16: ("ShortStorage", "i2"),
    torch.int8: ("CharStorage", "i1"),
    torch.uint8: ("ByteStorage", "u1"),
    torch.bool: ("BoolStorage", "b1"),
    torch.complex64: ("ComplexFloatStorage", ""),
    torch.complex128: ("ComplexDoubleStorage", ""),
    torch.uint64: ("", "u8"),
    torch.uint32: ("", "u4"),
    torch.uint16: ("", "u2"),
    torch.float8_e4m3fn: ("", ""),
    torch.float8_e5m2: ("", ""),
}
DTYPES = {str(dtype): dtype for dtype in TYPES}
STORAGES = {f"torch.{name}": dtype for dtype, (name, _) in TYPES.items() if name}
STORAGES["torch.storage.UntypedStorage"] = torch.uint8
NUMPY_DTYPES = {name: dtype for dtype, (_, name) in TYPES.items() if name}


class StandIn:
    """Stands for a class, a function or an object of another program, without its contents.

    Attributes:
        name: name of the class or function, with its module.
    """

    __slots__ = ("is_network", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_network = False


class Storage(NamedTuple):
    """The data of tensors.

    Attributes:
        data: uint8 (N,).
        start: the element that counts as the first.
    """

    data: Tensor
    dtype: torch.dtype
    start: int = 0


# --- What a file may call: makers of tensors and plain data ---


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
    """Do what torch's _rebuild_tensor_v2 does; gradients and hooks follow the first arguments."""
    if any(arguments[6:]):
        raise ValueError("it holds a tensor of an unknown kind (conjugate or negative)")
    return _tensor(*arguments[:4])


def _tensor_3(*arguments: Any) -> Tensor:
    """Do what torch's _rebuild_tensor_v3 does; the seventh argument is the dtype."""
    storage, offset, size, stride, _, _, dtype, *rest = arguments
    if not isinstance(dtype, StandIn) or dtype.name not in DTYPES or any(rest):
        raise ValueError("it holds a tensor of an unknown kind")
    return _tensor(storage, offset, size, stride, DTYPES[dtype.name])


def _tensor_with_attributes(function: Any, kind: Any, arguments: Any, *_: Any) -> Any:
    """Build a tensor without its attributes, or a stand-in for another program's tensor class."""
    if kind.name not in ("torch.Tensor", "torch.nn.parameter.Parameter"):
        return StandIn(kind.name)
    return FUNCTIONS[function.name](*arguments)


def _parameter(data: Any, *_: Any) -> Tensor:
    """Take the tensor of a parameter."""
    if not isinstance(data, Tensor):
        raise ValueError("it holds a parameter without data")
    return data


def array_of(shape: Any, dtype: torch.dtype, by_columns: Any, data: Any) -> Tensor:
    """Build the tensor of an array from its bytes; ValueError if these are wrong."""
    is_shape = type(shape) is tuple and len(shape) <= MOST_AXES
    if not is_shape or not all(type(length) is int and length >= 0 for length in shape):
        raise ValueError("it holds an array without a shape")
    if type(data) is not bytes or len(data) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"it holds an array of shape {shape} without data")
    flat = torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)
    axes = range(len(shape))[::-1]
    return flat.view(shape[::-1]).permute(*axes) if by_columns else flat.view(shape)


def _array_of_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> Any:
    """Build the tensor of an array of numpy from a buffer; arrays of other types have none."""
    if not isinstance(dtype, torch.dtype):
        return StandIn("numpy.ndarray")
    return array_of(shape, dtype, order == "F", bytes(data) if type(data) is bytearray else data)


def _encoded(text: Any, codec: Any = None) -> bytes:
    """Make the bytes that protocol 2 writes as text. Other codecs are refused; some grow a text."""
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


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": lambda *arguments: _tensor(*arguments[:4]),
    "torch._utils._rebuild_tensor_v2": _tensor_2,
    "torch._utils._rebuild_tensor_v3": _tensor_3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _tensor_with_attributes,
    "torch.Size": _size,
    # With pairs in pickles of Python 2.
    "collections.OrderedDict": lambda pairs=(): OrderedDict((checked_key(k), v) for k, v in pairs),
    "collections.defaultdict": lambda *_: {},
    "builtins.set": _set,
    "builtins.bytes": lambda *parts: StandIn("builtins.bytes") if parts else b"",
    "_codecs.encode": _encoded,
    # An array of numpy is made empty, and gets its data as its state.
    "numpy.core.multiarray._reconstruct": lambda *_: torch.empty(0),
    "numpy.core.numeric._frombuffer": _array_of_buffer,  # in protocol 5
    "numpy.dtype": lambda name, *_: NUMPY_DTYPES.get(name) or StandIn(f"numpy.dtype {name}"),
}


def checked_key(key: Any) -> Any:
    """Return a key that is quick to compare: text, a number, a stand-in, or a tuple of these.

    Raises:
        ValueError: for other keys. Tuples of tuples of tuples can take hours to compare.
    """
    for part in key if type(key) is tuple else (key,):
        is_plain = part is None or type(part) in (str, bytes, int, float, bool, StandIn)
        if not is_plain or (type(part) is int and part.bit_length() > MOST_KEY_BITS):
            raise ValueError(f"it has a {type(part).__name__} as the key of a dictionary or set")
    return key


# --- The machine ---


class Unpickler:
    """Runs pickles of one file."""

    def __init__(self, open_storage: Callable[[tuple[Any, ...]], Storage], most_bytes: int) -> None:
        """Prepare to read.

        Args:
            open_storage: returns a storage by its reference in torch.save's form, the tuple
                ("storage", type, key, ...).
            most_bytes: memory that all pickles of the file together may take for plain data.
        """
        self.stack: list[Any] = []
        self.marks: list[int] = []  # heights of the stack
        self.memo: dict[int, Any] = {}
        self._open_storage, self._left = open_storage, most_bytes

    def load(self, stream: BinaryIO) -> Any:
        """Run one pickle up to its end, where the stream then is.

        Raises:
            ValueError: if it needs other instructions, or more memory than allowed.
            Exception: any other, if the pickle is damaged.
        """
        self.stack, self.marks, self.memo = [], [], {}
        for instruction, argument, _ in pickletools.genops(stream):
            if instruction.name == "STOP":
                break
            self._left -= INSTRUCTION_BYTES
            if isinstance(argument, str | bytes | bytearray):
                self._left -= sys.getsizeof(argument)
            if self._left < 0:
                raise ValueError("it holds more plain data than a checkpoint has")
            run = INSTRUCTIONS.get(instruction.name)
            if run is None:
                raise ValueError(
                    f"it has the pickle instruction {instruction.name}, which tensors and plain "
                    "data do not need"
                )
            run(self, argument)
        return self.stack.pop()

    # --- Instructions; the argument is None for those that have none ---

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def take(self, count: int) -> list[Any]:
        """Take a number of values off the stack, in the order in which they were pushed."""
        return [self.stack.pop() for _ in range(count)][::-1]

    def since_mark(self) -> list[Any]:
        """Take off the values that were pushed since the last mark."""
        return self.take(len(self.stack) - self.marks.pop())

    def store(self, number: int) -> None:
        """Keep the top of the stack under a number."""
        self.memo[number] = self.stack[-1]

    def fill(self, kind: type, items: list[Any]) -> None:
        """Add items to the container at the top of the stack: keys and values in turn to a dict."""
        target = self.stack[-1]
        if isinstance(target, StandIn):
            return
        if type(target) not in (kind, OrderedDict if kind is dict else kind):
            raise ValueError(f"it adds items of a {kind.__name__} to a {type(target).__name__}")
        if kind is list:
            target.extend(items)
        elif kind is set:
            target.update(map(checked_key, items))
        else:
            target.update(zip(map(checked_key, items[::2]), items[1::2], strict=True))

    def build(self, _: None) -> None:
        """Give an array its data; other objects have no state that matters."""
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, StandIn):
            target.is_network = isinstance(state, dict) and "_parameters" in state
        elif isinstance(target, torch.dtype) and state[1] == ">":
            raise ValueError("the byte order of an array is big")
        elif isinstance(target, Tensor) and type(state) is tuple and len(state) == 5:
            _, shape, dtype, by_columns, data = state
            if isinstance(dtype, torch.dtype):  # others are of objects
                target.data = array_of(shape, dtype, by_columns, data)

    def name(self, text: str) -> None:
        """Put the stand-in for a class or function on the stack; "module name" is its name."""
        module, _, name = text.partition(" ")
        self.push(StandIn(f"{MOVED.get(module, module)}.{name}"))

    def call(self, function: Any, arguments: Any) -> None:
        """Push the result of a class or function called with these arguments."""
        if not isinstance(function, StandIn) or type(arguments) is not tuple:
            raise ValueError("it calls something that is not a function")
        known = FUNCTIONS.get(function.name)
        if known is None and function.name.startswith("torch._utils._rebuild"):
            raise ValueError(f"it holds a tensor of an unknown kind ({function.name})")
        self.push(known(*arguments) if known else StandIn(function.name))

    def refer(self, _: None) -> None:
        """Push a storage that lies outside the pickle."""
        reference = self.stack.pop()
        if type(reference) is not tuple or not reference:
            raise ValueError("it refers to something other than a storage")
        is_class = reference[0] == "module"  # of a pickled network, with its source code
        self.push(reference[1] if is_class else self._open_storage(reference))


def _each(names: str, run: Callable[[Unpickler, Any], None]) -> dict[str, Any]:
    """Return the same function for each of several instructions."""
    return dict.fromkeys(names.split(), run)


INSTRUCTIONS: dict[str, Callable[[Unpickler, Any], None]] = {
    **_each("PROTO FRAME", lambda machine, _: None),
    **_each("BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE", Unpickler.push),
    **_each("BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BYTEARRAY8", Unpickler.push),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_SET": lambda machine, _: machine.push(set()),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE1": lambda machine, _: machine.push(tuple(machine.take(1))),
    "TUPLE2": lambda machine, _: machine.push(tuple(machine.take(2))),
    "TUPLE3": lambda machine, _: machine.push(tuple(machine.take(3))),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "APPEND": lambda machine, _: machine.fill(list, machine.take(1)),
    "APPENDS": lambda machine, _: machine.fill(list, machine.since_mark()),
    "SETITEM": lambda machine, _: machine.fill(dict, machine.take(2)),
    "SETITEMS": lambda machine, _: machine.fill(dict, machine.since_mark()),
    "ADDITEMS": lambda machine, _: machine.fill(set, machine.since_mark()),
    **_each("BINPUT LONG_BINPUT", Unpickler.store),
    "MEMOIZE": lambda machine, _: machine.store(len(machine.memo)),
    **_each("BINGET LONG_BINGET", lambda machine, number: machine.push(machine.memo[number])),
    "GLOBAL": Unpickler.name,
    "STACK_GLOBAL": lambda machine, _: machine.name(" ".join(machine.take(2))),
    **_each("REDUCE NEWOBJ", lambda machine, _: machine.call(*machine.take(2))),
    "NEWOBJ_EX": lambda machine, _: machine.call(*machine.take(3)[:2]),
    "BUILD": Unpickler.build,
    "BINPERSID": Unpickler.refer,
}


# --- The extent of what was read ---


def check_extent(value: Any, most_bytes: int) -> None:
    """Refuse containers that hold themselves, are too deep, or are too large in a full walk.

    A list that holds a list twice, which holds a list twice, and so on, is small in memory. But a
    walk through it visits each entry once per path to it.

    Args:
        value: the contents of a file.
        most_bytes: largest size of all entries and of their paths, counted at each visit.

    Raises:
        ValueError: naming the problem.
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
        # A tuple counts as one value. Its length is that of its parts, which are plain.
        return [(entry, len(str(key))) for key, entry in container.items()]
    return [(entry, len(str(len(container)))) for entry in container]

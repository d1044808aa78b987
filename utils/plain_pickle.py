"""Reads pickles that hold tensors and plain data, and nothing else.

A pickle is a program for a small machine with a stack. This machine has only the instructions that
tensors and plain data need. It imports nothing and calls nothing that a file names: tensors are
built here, and objects of other programs become empty stand-ins. What a file may build is bounded,
so that a small one cannot fill the memory or keep the program busy for hours.
"""

import pickletools
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

import torch
from torch import Tensor

from utils.pickle_values import FUNCTIONS, StandIn, Storage, array_data, checked_key

# A rough upper bound of the memory that one instruction takes, without its text or bytes.
INSTRUCTION_BYTES = 128
# Modules by another name: in Python 2, and in numpy since 2.0.
MOVED = {"__builtin__": "builtins", "numpy._core.multiarray": "numpy.core.multiarray"}


class Unpickler:
    """Runs pickles of one file.

    Attributes:
        stack: what the instructions work on.
        left: bytes of memory that the file may still take for plain data.
    """

    def __init__(self, open_storage: Callable[[tuple[Any, ...]], Storage], most_bytes: int) -> None:
        """Prepare to read.

        Args:
            open_storage: returns the storage that a file refers to, in torch.save's way; the tuple
                is ("storage", type, key, ...).
            most_bytes: memory that all pickles of the file together may take for plain data.
        """
        self.stack: list[Any] = []
        self.left = most_bytes
        self._open_storage = open_storage
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def load(self, stream: BinaryIO) -> Any:
        """Run one pickle, up to its end; the stream stands behind it afterwards.

        Raises:
            ValueError: if it needs what this machine does not have, or more memory than allowed.
            Exception: any other, if the pickle is damaged.
        """
        self.stack, self._marks, self._memo = [], [], {}
        for instruction, argument, _ in pickletools.genops(stream):
            if instruction.name == "STOP":
                break
            self.left -= INSTRUCTION_BYTES
            if isinstance(argument, str | bytes):
                self.left -= sys.getsizeof(argument)
            if self.left < 0:
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

    def mark(self, _: None) -> None:
        """Remember the height of the stack."""
        self._marks.append(len(self.stack))

    def since_mark(self) -> list[Any]:
        """Take off what was put on the stack since the last mark."""
        height = self._marks.pop()
        items = self.stack[height:]
        del self.stack[height:]
        return items

    def take(self, count: int) -> list[Any]:
        """Take a number of values off the stack, in the order in which they were put there."""
        return [self.stack.pop() for _ in range(count)][::-1]

    def store(self, number: int) -> None:
        """Keep the top of the stack under a number."""
        self._memo[number] = self.stack[-1]

    def memoize(self, _: None) -> None:
        """Keep the top of the stack under the next number."""
        self.store(len(self._memo))

    def recall(self, number: int) -> None:
        """Put a value that was kept on the stack."""
        self.push(self._memo[number])

    def append(self, items: Iterable[Any]) -> None:
        """Add items to the list at the top of the stack."""
        target = self.stack[-1]
        if type(target) is list:
            target.extend(items)
        elif not isinstance(target, StandIn):
            raise ValueError(f"it appends to a {type(target).__name__}")

    def add(self, _: None) -> None:
        """Add items to the set at the top of the stack."""
        items = self.since_mark()
        target = self.stack[-1]
        if type(target) is not set:
            raise ValueError(f"it adds to a {type(target).__name__}")
        target.update(map(checked_key, items))

    def set_items(self, items: list[Any]) -> None:
        """Add keys and values, in turn, to the dictionary at the top of the stack."""
        target = self.stack[-1]
        if type(target) in (dict, OrderedDict):
            for key, value in zip(items[::2], items[1::2], strict=True):
                target[checked_key(key)] = value
        elif not isinstance(target, StandIn):
            raise ValueError(f"it sets entries of a {type(target).__name__}")

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
                target.data = array_data(shape, dtype, by_columns, data)

    def name(self, text: str) -> None:
        """Put the stand-in for a class or function on the stack; "module name" is its name."""
        module, _, name = text.partition(" ")
        self.push(StandIn(f"{MOVED.get(module, module)}.{name}"))

    def call(self, function: Any, arguments: Any) -> None:
        """Put on the stack what a class or function makes of arguments."""
        if not isinstance(function, StandIn) or type(arguments) is not tuple:
            raise ValueError("it calls what is no function")
        known = FUNCTIONS.get(function.name)
        if known is None and function.name.startswith("torch._utils._rebuild"):
            raise ValueError(f"it holds a tensor of an unknown kind ({function.name})")
        self.push(known(*arguments) if known else StandIn(function.name))

    def refer(self, _: None) -> None:
        """Put a storage that lies outside of the pickle on the stack."""
        reference = self.stack.pop()
        if type(reference) is not tuple or not reference:
            raise ValueError("it refers to something other than a storage")
        if reference[0] == "module":  # the class of a pickled network, with its source code
            self.push(reference[1])
        else:
            self.push(self._open_storage(reference))


INSTRUCTIONS: dict[str, Callable[[Unpickler, Any], None]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "BININT": Unpickler.push,
    "BININT1": Unpickler.push,
    "BININT2": Unpickler.push,
    "LONG1": Unpickler.push,
    "BINFLOAT": Unpickler.push,
    "BINUNICODE": Unpickler.push,
    "SHORT_BINUNICODE": Unpickler.push,
    "BINSTRING": Unpickler.push,
    "SHORT_BINSTRING": Unpickler.push,
    "BINBYTES": Unpickler.push,
    "SHORT_BINBYTES": Unpickler.push,
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_SET": lambda machine, _: machine.push(set()),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE1": lambda machine, _: machine.push(tuple(machine.take(1))),
    "TUPLE2": lambda machine, _: machine.push(tuple(machine.take(2))),
    "TUPLE3": lambda machine, _: machine.push(tuple(machine.take(3))),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "MARK": Unpickler.mark,
    "APPEND": lambda machine, _: machine.append(machine.take(1)),
    "APPENDS": lambda machine, _: machine.append(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.set_items(machine.take(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.since_mark()),
    "ADDITEMS": Unpickler.add,
    "BINPUT": Unpickler.store,
    "LONG_BINPUT": Unpickler.store,
    "MEMOIZE": Unpickler.memoize,
    "BINGET": Unpickler.recall,
    "LONG_BINGET": Unpickler.recall,
    "GLOBAL": Unpickler.name,
    "STACK_GLOBAL": lambda machine, _: machine.name(" ".join(machine.take(2))),
    "REDUCE": lambda machine, _: machine.call(*machine.take(2)),
    "NEWOBJ": lambda machine, _: machine.call(*machine.take(2)),
    "NEWOBJ_EX": lambda machine, _: machine.call(*machine.take(3)[:2]),
    "BUILD": Unpickler.build,
    "BINPERSID": Unpickler.refer,
}

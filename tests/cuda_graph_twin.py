"""CUDA graphs on the CPU: a recording of torch's operations with the tensors that they use.

Like a CUDA graph, it repeats the same operations on the same memory, with the numbers of the first
time; it is an error to read a value while it records; recording changes nothing; and it does not
keep memory from elsewhere: it is an error to repeat it once that is freed.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

FREE_MEMORY = 10**10  # bytes
WAITING = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten._unique2.default,
}


def memory_of(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def tensors(values: Any) -> list[Tensor]:
    return [one for one in tree_leaves(values) if isinstance(one, Tensor)]


class Outside:
    """A tensor that was there before the recording."""

    def __init__(self, tensor: Tensor) -> None:
        self.memory = StorageWeakRef(tensor.untyped_storage())
        self.dtype = tensor.dtype
        self.view = tensor.storage_offset(), tensor.shape, tensor.stride()

    def tensor(self) -> Tensor:
        assert not self.memory.expired(), "a recording reads memory that was freed"
        storage = torch.UntypedStorage._new_with_weak_ptr(self.memory.cdata)
        return torch.empty(0, dtype=self.dtype).set_(storage, *self.view)


class TwinGraph:
    """Stands in for torch.cuda.CUDAGraph."""

    made = 0
    replayed = 0

    def __init__(self) -> None:
        TwinGraph.made += 1
        self.calls: list[tuple[Callable[..., Any], Any, list[Tensor | Outside]]] = []

    def replay(self) -> None:
        TwinGraph.replayed += 1
        with torch.no_grad():
            for function, given, outputs in self.calls:
                args, kwargs = tree_map_only(Outside, Outside.tensor, given)
                found = tensors(function(*args, **kwargs))
                for recorded, new in zip(outputs, found, strict=True):
                    # One from outside was changed in place, or is a view of it.
                    if isinstance(recorded, Tensor) and recorded.data_ptr() != new.data_ptr():
                        recorded.copy_(new)

    def pool(self) -> tuple[int, int]:
        return 0, 1


class Recorder(TorchDispatchMode):
    def __init__(self, graph: TwinGraph) -> None:
        super().__init__()
        self.graph = graph
        self.changed: list[tuple[Tensor, Tensor]] = []
        self.inside: set[int] = set()  # memory of the recording

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function in WAITING:
            raise RuntimeError("operation not permitted when stream is capturing")
        kwargs = kwargs or {}
        for argument, value in zip(function._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                self.changed += [(one, one.clone()) for one in tensors(value)]
        found = function(*args, **kwargs)
        given = tree_map_only(Tensor, self.kept, (args, kwargs))
        used = {memory_of(one) for one in tensors((args, kwargs))}
        self.inside |= {memory_of(one) for one in tensors(found)} - used
        self.graph.calls.append((function, given, [self.kept(one) for one in tensors(found)]))
        return found

    def kept(self, tensor: Tensor) -> Tensor | Outside:
        return tensor if memory_of(tensor) in self.inside else Outside(tensor)


@contextmanager
def record(graph: TwinGraph, *_: Any, **__: Any) -> Iterator[None]:
    """Stand in for torch.cuda.graph."""
    recorder, numbers = Recorder(graph), torch.get_rng_state()
    try:
        with recorder:
            yield
    finally:
        torch.set_rng_state(numbers)
        with torch.no_grad():
            for tensor, before in reversed(recorder.changed):
                tensor.copy_(before)


@contextmanager
def cuda_graphs_on_cpu() -> Iterator[type[TwinGraph]]:
    """In the block CUDA graphs work on the CPU; yields the class that counts them."""
    TwinGraph.made = TwinGraph.replayed = 0
    replaced = {
        "CUDAGraph": TwinGraph,
        "graph": record,
        "graph_pool_handle": lambda: (0, 1),
        "stream": lambda _: nullcontext(),
        "current_stream": lambda: None,
        "Stream": lambda device: None,
        "device": lambda _: nullcontext(),
        "mem_get_info": lambda _: (FREE_MEMORY, FREE_MEMORY),
    }
    with (
        mock.patch.multiple(torch.cuda, **replaced),
        mock.patch.object(torch._C, "_cuda_endAllocateToPool", create=True),
    ):
        yield TwinGraph

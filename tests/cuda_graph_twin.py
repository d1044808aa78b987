"""CUDA graphs on the CPU: a recording of torch's operations with the tensors that they use.

Like a CUDA graph, it repeats the same operations on the same memory, with the numbers of the first
time; it is an error to read a value while it records; and recording changes nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITING = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten._unique2.default,
}


def tensors(values: Any) -> list[Tensor]:
    return [one for one in tree_leaves(values) if isinstance(one, Tensor)]


class TwinGraph:
    """Stands in for torch.cuda.CUDAGraph."""

    made = 0
    replayed = 0

    def __init__(self) -> None:
        TwinGraph.made += 1
        self.calls: list[tuple[Callable[..., Any], Any, Any, list[Tensor]]] = []

    def replay(self) -> None:
        TwinGraph.replayed += 1
        with torch.no_grad():
            for function, args, kwargs, outputs in self.calls:
                found = tensors(function(*args, **kwargs))
                for recorded, new in zip(outputs, found, strict=True):
                    if recorded.data_ptr() != new.data_ptr():  # no view, nor changed in place
                        recorded.copy_(new)


class Recorder(TorchDispatchMode):
    def __init__(self, graph: TwinGraph) -> None:
        super().__init__()
        self.graph = graph
        self.changed: list[tuple[Tensor, Tensor]] = []

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
        self.graph.calls.append((function, args, kwargs, tensors(found)))
        return found


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
    }
    with mock.patch.multiple(torch.cuda, **replaced):
        yield TwinGraph

"""Repeats work on a GPU as CUDA graphs.

A step of a small network starts hundreds of kernels, and the processor needs longer to start them
than the GPU to run them. A CUDA graph is a recording of kernels and their memory, which one call
starts: it computes the same, bit for bit.
"""

import logging
import threading
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from utils.errors import one_line

log = logging.getLogger(__name__)

MOST_GRAPHS = 32  # kept at once; the oldest makes room
_one_at_a_time = threading.Lock()  # threads share the memory of a graph


def has_cuda_graphs(device: torch.device) -> bool:
    """Whether work on a device can be recorded.

    On AMD's GPUs, which torch calls CUDA too, libraries set themselves up again in the stream of a
    recording, which cannot be recorded.
    """
    return device.type == "cuda" and torch.version.hip is None


class Recording(NamedTuple):
    """A graph, and the memory that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    output: Tensor


class CudaGraphs:
    """The recordings of some work, one for each kind of inputs.

    Attributes:
        is_on: whether `run` may be used; a failure turns this off.
    """

    def __init__(self, is_on: bool) -> None:
        self.is_on = is_on
        # By kind; None for a kind and a thread: it has run there once.
        self._kept: dict[Hashable, Recording | None] = {}
        self._pool: Any = None  # memory of all graphs, which never run at once

    def run(
        self, kind: Hashable, inputs: Sequence[Tensor | None], work: Callable[[], Tensor]
    ) -> Tensor:
        """Do some work on a GPU: the first time plainly, later by its recording.

        The first time in a thread libraries choose their kernels and set themselves up, which
        cannot be recorded.

        Args:
            kind: of the work. Works of one kind, with inputs of the same shapes, do the same
                operations with the same numbers, and read and change only memory that stays in its
                place, as that of weights: a graph does not keep it.
            inputs: what differs between them, tensors of the device that only this work uses. Those
                of the recorded call are kept, and overwritten by later ones.
            work: it may not wait for the device, nor copy from the host.

        Returns:
            What `work` returns, in memory of its own.
        """
        used = [one for one in inputs if one is not None]
        kind = (kind, tuple((one.shape, one.dtype) for one in used))
        once = (kind, threading.get_ident())
        with _one_at_a_time:
            recording = self._kept.get(kind)
            if recording is None and self.is_on and once in self._kept:
                recording = self._record_if_possible(used, work)
            if recording is None:
                self._keep(once, None)
                return work()
            if recording.inputs is used:
                del self._kept[once]
                self._keep(kind, recording)
            else:
                torch._foreach_copy_(recording.inputs, used)
            recording.graph.replay()
            return recording.output.clone()

    def _keep(self, key: Hashable, value: Recording | None) -> None:
        """Keep something in the place of the oldest if there are too many."""
        if len(self._kept) == MOST_GRAPHS:
            del self._kept[next(iter(self._kept))]
        self._kept[key] = value

    def _record_if_possible(
        self, inputs: list[Tensor], work: Callable[[], Tensor]
    ) -> Recording | None:
        """Record some work without doing it; if that fails, record nothing from now on."""
        try:
            return self._record(inputs, work)
        except RuntimeError as error:
            self.is_on = False
            self._kept.clear()
            self._end_recording(inputs[0])
            text = "CUDA graphs do not work here (%s): continuing without them"
            log.info(text, one_line(error))
        return None  # only here is the memory free that the error's traceback holds

    def _end_recording(self, some: Tensor) -> None:
        """End a recording that failed; `some` is a tensor of its device."""
        # If the driver refused it, torch before 2.13 still reserves its memory (pytorch 180395).
        for name in ("_cuda_endAllocateToPool", "_cuda_endAllocateCurrentStreamToPool"):
            end = getattr(torch._C, name, None)
            with suppress(RuntimeError):
                _ = end and end(some.device.index, self._pool)
        # Random numbers are left in the state of a recording; the end of another one resets them.
        with suppress(RuntimeError):
            self._record([some], some.clone)

    def _record(self, inputs: list[Tensor], work: Callable[[], Tensor]) -> Recording:
        """Record some work without doing it; raises a RuntimeError of torch if that fails."""
        device = inputs[0].device
        # torch forgets a pool with its last graph.
        graphs = [one.graph for one in self._kept.values() if one is not None]
        self._pool = graphs[0].pool() if graphs else torch.cuda.graph_pool_handle()
        # On another current device torch would record nothing, and do the work instead.
        with torch.cuda.device(device):
            graph, stream = torch.cuda.CUDAGraph(), _stream(device)
            # Other threads may allocate memory meanwhile.
            recording = torch.cuda.graph(graph, self._pool, stream, "thread_local")
            torch.cuda.empty_cache()
            before = torch.cuda.memory_reserved()
            # After a failure torch stays in the stream of the recording; the first block leaves it.
            with torch.cuda.stream(torch.cuda.current_stream()), recording:
                output = work()
            # Plain work cannot use the memory of graphs, and needs as much.
            if torch.cuda.mem_get_info(device)[0] < torch.cuda.memory_reserved() - before:
                raise torch.OutOfMemoryError("they leave too little memory for other work")
        return Recording(graph, inputs, output)


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream in which a device records; torch's own belongs to the first device."""
    return torch.cuda.Stream(device)

"""Repeats work on a GPU as CUDA graphs.

A step of a small network starts hundreds of kernels, and the processor needs longer to start them
than the GPU to run them. A CUDA graph is a recording of kernels and their memory, which one call
starts: it computes the same, bit for bit.
"""

import logging
import threading
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor

from utils.errors import one_line

log = logging.getLogger(__name__)

MOST_GRAPHS = 32  # kept at once; the oldest makes room
_one_at_a_time = threading.Lock()  # threads share the memory of a graph


def has_cuda_graphs(device: torch.device) -> bool:
    """Whether work on a device can be recorded."""
    return device.type == "cuda"


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
        self._kinds: dict[Hashable, Recording | None] = {}  # None: it has run once
        self._memory: Any = None  # of all graphs, which never run at once

    def run(
        self, kind: Hashable, inputs: Sequence[Tensor | None], work: Callable[[], Tensor]
    ) -> Tensor:
        """Do some work on a GPU: the first time plainly, later by its recording.

        The first time libraries choose their kernels and set themselves up, which cannot be
        recorded.

        Args:
            kind: of the work. Works of one kind, with inputs of the same shapes, do the same
                operations with the same numbers, and change only memory that stays in its place.
            inputs: what differs between them, tensors of the device that only this work uses. Those
                of the recorded call are kept, and overwritten by later ones.
            work: it may not wait for the device, nor copy from the host.

        Returns:
            What `work` returns, in memory of its own.
        """
        used = [one for one in inputs if one is not None]
        kind = (kind, tuple((one.shape, one.dtype) for one in used))
        with _one_at_a_time:
            if kind not in self._kinds:
                if len(self._kinds) == MOST_GRAPHS:
                    del self._kinds[next(iter(self._kinds))]
                self._kinds[kind] = None
                return work()
            try:
                recording = self._kinds[kind] or self._record(used, work)
            except RuntimeError as error:
                self._give_up(error)
                return work()
            self._kinds[kind] = recording
            if recording.inputs is not used:
                torch._foreach_copy_(recording.inputs, used)
            recording.graph.replay()
            return recording.output.clone()

    def _give_up(self, error: RuntimeError) -> None:
        """Record nothing from now on, and free the memory of the recordings."""
        self.is_on = False
        self._kinds.clear()
        # Random numbers are left in the state of a recording; the end of another one resets them.
        with suppress(RuntimeError), torch.cuda.graph(torch.cuda.CUDAGraph()):
            pass
        log.info("CUDA graphs do not work here (%s): continuing without them", one_line(error))

    def _record(self, inputs: list[Tensor], work: Callable[[], Tensor]) -> Recording:
        """Record some work without doing it; raises a RuntimeError of torch if that fails."""
        self._memory = self._memory or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # Other threads may allocate memory meanwhile.
        recording = torch.cuda.graph(graph, self._memory, capture_error_mode="thread_local")
        # After a failure torch stays in the stream of the recording; the first block leaves it.
        with torch.cuda.stream(torch.cuda.current_stream()), recording:
            output = work()
        return Recording(graph, inputs, output)

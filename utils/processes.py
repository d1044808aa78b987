"""Work shared by several processes, as torchrun starts them: shares, sums and agreement.

Every process runs the same program on its share of the images. Only the main one, rank 0, writes
files and prints. With a single process nothing here does anything. Numbers that the host needs go
through the CPU (gloo), so that no process waits for its GPU; gradients go from GPU to GPU (NCCL).
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

# DDP imports this module too, but later. Then its default arguments would hold the group, and so
# the threads of gloo, until Python shuts down. A thread that frees its last tensor during shutdown
# aborts the process.
import torch.distributed.nn
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from utils.errors import UserError, counted, value_text
from utils.launch import Launch, read_launch

T = TypeVar("T")

TIMEOUT = timedelta(minutes=30)  # the job ends if a process sends nothing for longer
BEAT_SECONDS = 1.0  # between two signs of life of the main process while the others wait
LOST = ("Connection closed by peer", "Connection reset by peer")  # what gloo and NCCL say
OWN_GPU = "start one process per GPU (torchrun: nproc_per_node, srun: ntasks and gpus-per-task=1)"
NEEDED = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # besides WORLD_SIZE


class Processes(Launch):
    """This process among those of its job, and how it works with the others."""

    def share(self, count: int) -> slice:
        """Return this process's part of `count` items; part sizes differ by at most one."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def check_share(self, images_per_step: int) -> None:
        """Refuse more processes than a step has images.

        Raises:
            UserError: naming both numbers.
        """
        if self.size > images_per_step:
            raise UserError(
                f"a step has {counted(images_per_step, 'image')} (`TrainingConfig.batch_size`) and "
                f"there are {self.size} processes: each needs at least one"
            )

    def own_device(self, device: torch.device) -> torch.device:
        """Choose the device of this process: with several GPUs, the one of its local rank.

        A launcher may show each process a single GPU, its own, as srun does with gpus-per-task=1.
        `connected` checks whether it is its own.

        Args:
            device: the device of the job. With several processes a GPU must not have an index.

        Returns:
            The device, with its index if it is a GPU.

        Raises:
            UserError: if the machine has fewer GPUs than processes, or one GPU was named for all.
        """
        if device.type != "cuda":
            return device
        if self.size == 1:
            return torch.device("cuda", device.index or 0)
        if device != torch.device("cuda"):
            raise UserError(
                f"`device` {device} is one GPU for {self.size} processes: leave `device` out and "
                "choose GPUs with CUDA_VISIBLE_DEVICES"
            )
        count = torch.cuda.device_count()
        if count > 1 and self.local_rank >= count:
            raise UserError(
                f"process {self.local_rank + 1} on this machine has no GPU of its own: it sees "
                f"{count}; {OWN_GPU}"
            )
        return torch.device("cuda", 0 if count == 1 else self.local_rank)

    @contextmanager
    def connected(self, device: torch.device) -> Iterator[None]:
        """Connect the processes with each other while the block runs.

        Args:
            device: the device of this process; a GPU must be torch's current one.

        Raises:
            UserError: if the environment does not give the address of the other processes, two
                processes have the same GPU, or another one ends while this one needs it.
        """
        if self.size == 1:
            yield
            return
        missing = [name for name in NEEDED if name not in os.environ]
        if missing:
            raise UserError(
                f"started as one of {self.size} processes (WORLD_SIZE) without {missing[0]}: "
                "start with torchrun, or unset WORLD_SIZE"
            )
        on_gpu = device.type == "cuda"
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=TIMEOUT)
        try:
            if on_gpu:
                self._check_gpus(str(torch.cuda.get_device_properties(device).uuid))
            yield
        except SystemExit:  # all processes stop after a signal
            _disconnect()
            raise
        except RuntimeError as error:
            if not any(part in str(error) for part in LOST):
                raise
            raise UserError(
                "another process of this job has ended; its own message says why"
            ) from error
        _disconnect()

    def _check_gpus(self, gpu: str) -> None:
        """Refuse to share a GPU with another process: NCCL does not support it.

        Args:
            gpu: a name that no other GPU has, on any machine.

        Raises:
            UserError: in every process.
        """
        gpus: list[Any] = [None] * self.size
        dist.all_gather_object(gpus, gpu)
        for rank, one in enumerate(gpus):
            if gpus.index(one) < rank:
                raise UserError(f"processes {gpus.index(one)} and {rank} share one GPU; {OWN_GPU}")

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Run the block in the main process, then in the others, which can use its results.

        The others wait while the main one works. The block must not contain collectives.
        """
        if self.is_main:
            with self.together():
                yield
        else:
            with self.together():
                pass
            yield

    @contextmanager
    def together(self) -> Iterator[Callable[[Iterable[T]], Iterator[T]]]:
        """Run the block in every process, and leave it when all have ended it, however late.

        The block must not contain collectives.

        Yields:
            A function that passes on the items of long work, and raises the RuntimeError of torch
            between two of them if another process has ended.
        """
        if self.size == 1:
            yield iter
            return
        # One collective after the block would end at TIMEOUT; many short ones do not.
        has_ended, has_failed = threading.Event(), threading.Event()
        errors: list[RuntimeError] = []

        def beat() -> None:
            try:
                while self.largest(not has_ended.wait(BEAT_SECONDS)) != [0]:
                    if has_failed.is_set():
                        return
            except RuntimeError as error:  # another process has ended
                errors.append(error)

        def while_all_run(items: Iterable[T]) -> Iterator[T]:
            for item in items:
                yield item
                if errors:
                    raise errors[0]

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield while_all_run
        except BaseException:
            has_failed.set()
            raise
        finally:
            has_ended.set()
            thread.join()
        self.largest(0)

    def wait(self) -> None:
        """Wait until every process has reached this point."""
        self.largest(0)

    def largest(self, *values: int) -> list[int]:
        """Find the largest of each value over all processes; every process gets the same list."""
        if self.size == 1:
            return list(values)
        votes = torch.tensor(values)
        dist.all_reduce(votes, dist.ReduceOp.MAX)
        return votes.tolist()

    def from_main(self, compute: Callable[[], T]) -> T:
        """Call `compute` only in the main process and give its result to every process.

        The others wait until it is done. `compute` must not contain collectives.
        """
        received: list[Any] = [None]
        with self.main_first():
            if self.is_main:
                received = [compute()]
        if self.size > 1:
            dist.broadcast_object_list(received, src=0, device=torch.device("cpu"))
        result: T = received[0]
        return result

    def check_equal(self, values: Mapping[str, object]) -> None:
        """Refuse to go on if a process has another value than the main one.

        Args:
            values: the values of this process, by name for the message; every process has the same
                names.

        Raises:
            UserError: in every process.
        """
        if self.size == 1:
            return
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, dict(values))
        for rank, theirs in enumerate(found):
            for name, value in found[0].items():
                if theirs[name] != value:
                    raise UserError(
                        f"the processes differ in the {name}: process {rank} (RANK) has "
                        f"{value_text(theirs[name])[:100]}, process 0 has "
                        f"{value_text(value)[:100]}; all need the same files and options"
                    )

    def add_up(self, tensor: Tensor) -> Tensor:
        """Replace a tensor, in place, by its sum over the processes; return the tensor."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def share_gradients(self, module: nn.Module) -> nn.Module:
        """Wrap a module so that backward passes average its gradients over the processes."""
        if self.size == 1:
            return module
        return DistributedDataParallel(module, gradient_as_bucket_view=True)

    def keep_gradients(self, shared: nn.Module) -> AbstractContextManager[None]:
        """Let backward passes in the block add up gradients locally, in this process.

        The first backward pass after the block exchanges the sums.
        """
        return shared.no_sync() if self.size > 1 else nullcontext()  # type: ignore[operator]


def _disconnect() -> None:
    """End the group of processes, and the threads of gloo.

    Older versions of torch wait for these threads while they hold Python's lock. A thread that
    needs the lock to free a tensor then waits too, forever. Freeing the backend itself releases
    the lock, so the backend must outlive the group.
    """
    assert dist.group.WORLD is not None
    backend = dist.group.WORLD._get_backend(torch.device("cpu"))
    dist.destroy_process_group()
    del backend


def launched_processes() -> Processes:
    """Return the processes described by the environment; errors as in `read_launch`."""
    launch = read_launch()
    return Processes(launch.rank, launch.size, launch.local_rank)


ALONE = Processes()

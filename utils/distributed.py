"""Several processes that train one model, as torchrun starts them: shares, sums and agreement.

Every process runs the same program on its share of the images; rank 0, the main one, alone writes
and speaks. With one process nothing here does anything. What the hosts tell each other goes through
the CPU (gloo), so that it never waits for a GPU; gradients take the GPU's own way (NCCL).
"""

import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import (
    AbstractContextManager,
    contextmanager,
    nullcontext,
    redirect_stderr,
    redirect_stdout,
)
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from utils.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

T = TypeVar("T")

TIMEOUT = timedelta(minutes=30)  # a process that is silent for longer has hung, and ends the job
GRACE_SECONDS = 5.0  # in which the main process tells why the job ends
NEEDED = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # beside WORLD_SIZE


@dataclass(frozen=True)
class Processes:
    """This process among those of its job.

    Attributes:
        rank: its number, from 0.
        size: how many there are.
        local_rank: its number on its machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This process's part of `count` things in a row; parts differ by one at most."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def check_share(self, images_per_step: int) -> None:
        """Refuse more processes than a step has images.

        Raises:
            UserError: naming both numbers.
        """
        if self.size > images_per_step:
            raise UserError(
                f"a step has {images_per_step} images (--batch_size) and there are {self.size} "
                "processes: each needs one at least"
            )

    def own_device(self, device: "torch.device") -> "torch.device":
        """The device of this process, with its index if it is a GPU: that of the local rank.

        Raises:
            UserError: if the machine has fewer GPUs than processes, or one was named for all.
        """
        import torch

        if device.type != "cuda":
            return device
        if self.size == 1:
            return torch.device("cuda", device.index or 0)
        if device != torch.device("cuda"):
            raise UserError(
                f"--device {device} is one GPU for {self.size} processes: leave --device out and "
                "choose GPUs with CUDA_VISIBLE_DEVICES"
            )
        if self.local_rank >= torch.cuda.device_count():
            raise UserError(
                f"process {self.local_rank + 1} on this machine has no GPU of its own: there are "
                f"{torch.cuda.device_count()}, so start at most that many (--nproc_per_node)"
            )
        return torch.device("cuda", self.local_rank)

    @contextmanager
    def connected(self, device: "torch.device") -> Iterator[None]:
        """Let the processes talk to each other in the block.

        Args:
            device: where this process computes; the current one, if it is a GPU.

        Raises:
            UserError: if the environment does not tell where the others are.
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
        import torch.distributed as dist

        # DDP imports this too: later, its default arguments would hold the group, and so gloo's
        # threads, until Python shuts down, where freeing their last tensor aborts the process.
        import torch.distributed.nn  # noqa: F401

        on_gpu = device.type == "cuda"
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=TIMEOUT)
        try:
            yield
        except SystemExit:  # all stop after a signal
            dist.destroy_process_group()
            raise
        dist.destroy_process_group()

    @contextmanager
    def main_speaks_first(self) -> Iterator[None]:
        """Hold back what the other processes print, and how they end.

        The processes of a job usually fail for one reason, and a launcher ends all when one has
        failed. So the main process tells the reason, once; another one is heard only if the job
        still lives after a while.
        """
        if self.is_main:
            yield
            return
        held_back = io.StringIO()
        try:
            with redirect_stdout(io.StringIO()), redirect_stderr(held_back):
                yield
        except BaseException:
            time.sleep(GRACE_SECONDS)
            sys.stderr.write(held_back.getvalue())
            raise

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Run the block in the main process, then in the others: what it leaves, they find."""
        if not self.is_main:
            self.wait()
        yield
        if self.is_main:
            self.wait()

    def wait(self) -> None:
        """Wait until every process is here."""
        self.largest(0)

    def largest(self, *values: int) -> list[int]:
        """The largest of each value over the processes, the same for all of them."""
        if self.size == 1:
            return list(values)
        import torch
        import torch.distributed as dist

        votes = torch.tensor(values)
        dist.all_reduce(votes, dist.ReduceOp.MAX)
        return votes.tolist()

    def from_main(self, compute: Callable[[], T]) -> T:
        """What the main process finds, told to every process; `compute` is called there alone."""
        if self.size == 1:
            return compute()
        import torch
        import torch.distributed as dist

        told = [compute() if self.is_main else None]
        dist.broadcast_object_list(told, src=0, device=torch.device("cpu"))
        return told[0]  # type: ignore[return-value]

    def add_up(self, tensor: "Tensor") -> "Tensor":
        """Replace a tensor by its sum over the processes, on its device; returns it."""
        if self.size > 1:
            import torch.distributed as dist

            dist.all_reduce(tensor)
        return tensor

    def gather(self, tensor: "Tensor") -> "Tensor":
        """Join the tensors (B, ...) of all processes, of equal shape, by rank: (size * B, ...)."""
        if self.size == 1:
            return tensor
        import torch
        import torch.distributed as dist

        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(parts, tensor)
        return torch.cat(parts)

    def share_gradients(self, module: "nn.Module") -> "nn.Module":
        """The module such that a backward pass averages its gradients over the processes."""
        if self.size == 1:
            return module
        from torch.nn.parallel import DistributedDataParallel

        return DistributedDataParallel(module, gradient_as_bucket_view=True)

    def keep_gradients(self, shared: "nn.Module") -> AbstractContextManager[None]:
        """Passes in the block add to the gradients here; the next one outside sends them all.

        Args:
            shared: what `share_gradients` returned.
        """
        return shared.no_sync() if self.size > 1 else nullcontext()  # type: ignore[operator]


def launched_processes() -> Processes:
    """What the environment says: torchrun, or a script that sets the same variables.

    Raises:
        UserError: if a variable is no number.
    """
    rank, size, local_rank = (
        _from_environment(name, default)
        for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
    )
    return Processes(rank, size, local_rank) if size > 1 else Processes()


def _from_environment(name: str, default: int) -> int:
    value = os.environ.get(name) or str(default)
    if not value.isdecimal():
        raise UserError(f"{name}={value} in the environment is no number; unset it")
    return int(value)


ALONE = Processes()

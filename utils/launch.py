"""Reads from the environment, as torchrun sets it, which process of a job this is.

This module does not import torch, so that a mistake on the command line is reported quickly.
"""

import io
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass

from utils.errors import UserError

GRACE_SECONDS = 10.0  # time for the main process to report why the job ends


@dataclass(frozen=True)
class Launch:
    """The place of this process among those of its job.

    Attributes:
        local_rank: number of this process on its machine, from 0.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints messages for all."""
        return self.rank == 0

    @contextmanager
    def main_speaks_first(self) -> Iterator[None]:
        """Delay the messages of the other processes, and their exit if they fail.

        The processes of a job usually fail for the same reason, and a launcher ends all of them
        when the first one exits. So the main process reports the reason, once. Another process
        prints its errors only if it still runs some seconds later.
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


def read_launch() -> Launch:
    """Read RANK, WORLD_SIZE and LOCAL_RANK from the environment; one process without them.

    Raises:
        UserError: if one of them is not a number, or there are fewer processes than RANK says.
    """
    rank, size, local_rank = (
        _from_environment(name, default)
        for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
    )
    if size <= 1:
        return Launch()
    if rank >= size:  # it would wait long for the others
        raise UserError(
            f"RANK={rank} in the environment is not below WORLD_SIZE={size}: start with torchrun, "
            "or unset both"
        )
    return Launch(rank, size, local_rank)


def _from_environment(name: str, default: int) -> int:
    """Read a number from the environment; an empty variable counts as absent."""
    value = os.environ.get(name) or str(default)
    if not value.isdecimal():
        raise UserError(f"{name}={value} in the environment is not a number; unset it")
    return int(value)

"""What goes wrong through no fault of the program, and how it is told: in one line."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# What torch and the libraries below it say then; cuDNN finds no algorithm with a small enough room.
OUT_OF_MEMORY = (
    "out of memory",
    "allocate memory",
    "ALLOC_FAILED",
    "unable to find an engine",
    "Unable to find a valid cuDNN algorithm",
)


class UserError(Exception):
    """A user's mistake or a condition of their machine, told in one line.

    The message names the bad value and the way out. MaskGIT.py prints it to stderr without a
    traceback and exits with code 2.
    """


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of Python or torch means that memory is exhausted."""
    return isinstance(error, MemoryError) or any(text in str(error) for text in OUT_OF_MEMORY)


def one_line(error: BaseException, length: int = 300) -> str:
    """What an exception says, fit to be part of a UserError's message."""
    return (" ".join(str(error).split()) or repr(error))[:length]


@contextmanager
def told_in_one_line(program: str) -> Iterator[None]:
    """End the process with one line and an exit code where the user or the machine is at fault.

    Raises:
        SystemExit: with code 2 for a UserError and for what the system refuses, 130 after Ctrl-C,
            141 where nobody reads the output any more.
    """
    try:
        yield
    except UserError as error:
        reason, code = f"error: {error}", 2
    except KeyboardInterrupt:
        reason, code = "stopped", 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still buffered
        raise SystemExit(141) from None
    except OSError as error:
        told = f"{error.filename}: {error.strerror}" if error.filename else one_line(error)
        reason, code = f"error: {told}", 2
    else:
        return
    sys.stderr.write(f"{program}: {reason}\n")
    raise SystemExit(code)

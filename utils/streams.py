"""What a process finds around it: closed standard streams, a reader that has gone, a display."""

import os
import sys
from contextlib import suppress
from typing import Any


def open_standard_streams(program: str) -> None:
    """Open the null device in the place of standard streams that were closed at the start.

    Otherwise the next file that the program opens would get the number of such a stream, and
    messages for people would be written into it. If stdout was closed, a line on stderr says so.
    """
    closed = []
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # The system gives the lowest free number.
            os.open(os.devnull, os.O_RDWR)
            closed.append(name)
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115
    if "stdout" in closed:
        with suppress(OSError):
            sys.stderr.write(
                f"{program}: stdout is closed, so its messages are lost (> log.txt keeps them)\n"
            )


def draw_into_files() -> None:
    """Have matplotlib open no windows, whatever MPLBACKEND says, unless somebody types here.

    Jupyter's kernels set the variable for every program that they start. Where the environment of
    the program lacks that backend, each import of matplotlib fails, also the one in torchmetrics.
    """
    if not hasattr(sys, "ps1"):  # set in notebooks and at the prompt of Python
        os.environ["MPLBACKEND"] = "agg"


def mute(stream: Any) -> None:
    """Send what is written to a stream, and what it still holds, to the null device."""
    null = os.open(os.devnull, os.O_WRONLY)
    with suppress(OSError):  # a stream in memory has no number, and nothing to be muted
        os.dup2(null, stream.fileno())
    os.close(null)

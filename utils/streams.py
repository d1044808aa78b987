"""Keeps the program working with closed standard streams, and without a display."""

import os
import sys
from contextlib import suppress
from typing import Any


def open_standard_streams(program: str) -> None:
    """Open the null device for standard streams that were closed at the start.

    Otherwise the next file that the program opens would get the number of such a stream, and
    messages would be written into it. If stdout was closed, a line on stderr says so.
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
    """Let matplotlib open no windows, for any MPLBACKEND, except in a notebook or at a prompt.

    Jupyter's kernels set the variable for every program that they start. If the environment of the
    program lacks this backend, each import of matplotlib fails, also the one in torchmetrics.
    """
    if not hasattr(sys, "ps1"):  # set in notebooks and at the prompt of Python
        os.environ["MPLBACKEND"] = "agg"


def say_last(message: str) -> None:
    """Write a message to stderr, after what stdout still holds; nothing fails."""
    for stream, text in ((sys.stdout, ""), (sys.stderr, message)):
        try:
            print(text, end="", file=stream, flush=True)
        except OSError:  # its disk is full, or it is closed: what it still holds is lost
            mute(stream)


def mute(stream: Any) -> None:
    """Send the buffer of a stream, and everything written to it later, to the null device."""
    null = os.open(os.devnull, os.O_WRONLY)
    with suppress(OSError):  # a stream in memory has no number and needs no muting
        os.dup2(null, stream.fileno())
    os.close(null)

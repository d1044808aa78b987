"""How the program stops at a safe place when the system or the user asks for it."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class StopRequest:
    """Whether a signal has asked the program to stop.

    Attributes:
        signal_number: the first signal that asked; 0 while there is none.
    """

    signal_number: int = 0


def exit_code(signal_number: int) -> int:
    """Return the exit code for a signal: 143 for SIGTERM, 130 for SIGINT, 129 for SIGHUP."""
    return 128 + signal_number


@contextmanager
def stop_on_signals(may_repeat: bool = False) -> Iterator[StopRequest]:
    """Record the first SIGTERM, SIGINT or SIGHUP and go on; a second one exits at once.

    A SIGHUP that is ignored, as under nohup, stays ignored. The earlier handlers return after the
    block.

    Args:
        may_repeat: whether a second signal is ignored. The launcher of several processes passes on
            a signal that the processes have received already, and kills those that take too long.
    """
    request = StopRequest()

    def note(signal_number: int, _frame: FrameType | None) -> None:
        if request.signal_number and not may_repeat:
            os._exit(exit_code(signal_number))
        if not may_repeat:
            # Not with print: the signal may have come in the middle of one.
            os.write(2, b"stopping after this step; a second signal leaves at once, unsaved\n")
        request.signal_number = signal_number

    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    previous = {number: signal.signal(number, note) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

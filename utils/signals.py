"""Stopping at a safe place when the system asks for it."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class StopRequest:
    """Set by the first SIGTERM or SIGINT.

    Attributes:
        signal_number: the signal that asked, 0 while none has.
    """

    signal_number: int = 0


def exit_code(signal_number: int) -> int:
    """As shells report a death by signal: 143 for SIGTERM, 130 for SIGINT."""
    return 128 + signal_number


@contextmanager
def stop_on_signals(may_repeat: bool = False) -> Iterator[StopRequest]:
    """Note the first SIGTERM or SIGINT instead of dying; a second one exits at once.

    Args:
        may_repeat: a second signal means nothing: launchers of several processes pass on a signal
            that the processes have had already, and they end by force what takes too long.
    """
    request = StopRequest()

    def note(signal_number: int, _frame: FrameType | None) -> None:
        if request.signal_number and not may_repeat:
            os._exit(exit_code(signal_number))
        request.signal_number = signal_number

    previous = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

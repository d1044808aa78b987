"""Stopping at a safe place when the system asks for it."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Set by the first SIGTERM or SIGINT.

    Attributes:
        signal_number: the signal that asked, None while none has.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def __bool__(self) -> bool:
        return self.signal_number is not None

    @property
    def exit_code(self) -> int:
        """128 + signal, as shells report it: 143 for SIGTERM, 130 for SIGINT."""
        return 128 + (self.signal_number or 0)


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Note the first SIGTERM or SIGINT instead of dying; a second one exits at once."""
    request = StopRequest()

    def note(signal_number: int, _frame: FrameType | None) -> None:
        if request:
            os._exit(128 + signal_number)
        request.signal_number = signal_number

    previous = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

"""How the program stops when the system or the user asks for it.

During a training, a signal is noted and the training stops at the next safe place, with its state
saved (`stop_on_signals`). At other times a signal ends the program as Ctrl-C does: unfinished files
are removed, and one line says the reason (`end_on_signals`).
"""

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

END_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""Signals that end the program, besides Ctrl-C. Batch systems send SIGUSR1 before time is up."""

STOP_SIGNALS = (signal.SIGINT, *END_SIGNALS)


class Stopped(KeyboardInterrupt):
    """A signal has asked the program to end."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


@dataclass
class StopRequest:
    """Whether a signal has asked the program to stop.

    Attributes:
        signal_number: the first such signal; 0 before one.
    """

    signal_number: int = 0


_requests: list[StopRequest] = []  # one for each running `stop_on_signals` block
_ended: list[int] = []  # the signal that the `end_on_signals` block has received
_cut_short: list[StopRequest] = []  # the requests of running `cut_short` blocks


def exit_code(signal_number: int) -> int:
    """Return the exit code for a signal: 143 for SIGTERM, 130 for SIGINT, 138 for SIGUSR1."""
    return 128 + signal_number


@contextmanager
def end_on_signals(is_alone: bool = True) -> Iterator[None]:
    """Raise `Stopped` in the block after a SIGTERM, SIGHUP or SIGUSR1; a second one ends at once.

    Ctrl-C raises a KeyboardInterrupt, as ever. A signal that is ignored, as SIGHUP under nohup,
    stays ignored. Python drops what is raised while it frees an object, so long work has to call
    `end_if_asked` now and then.

    Args:
        is_alone: False for one of several processes. A signal then ends it at once, because it may
            be waiting for a process that has failed, and would not notice the signal.
    """

    def end(signal_number: int, _frame: FrameType | None) -> None:
        for number in _not_ignored(END_SIGNALS):
            signal.signal(number, signal.SIG_DFL)
        _ended.append(signal_number)
        end_if_asked()

    try:
        with _handled(_not_ignored(STOP_SIGNALS) if is_alone else (), end):
            yield
    except Exception:
        end_if_asked()  # a library swallowed `Stopped`, and half an import of it is missing
        raise
    finally:
        _ended.clear()


def end_if_asked() -> None:
    """Raise again what a library or a destructor has swallowed. Call it before and in long work.

    Raises:
        Stopped: if a signal has asked the program to end, or to leave a `cut_short` block.
        KeyboardInterrupt: if it was Ctrl-C, and nothing is being trained.
    """
    if _ended:
        raise KeyboardInterrupt if _ended[0] == signal.SIGINT else Stopped(_ended[0])
    if _cut_short and _cut_short[-1].signal_number:
        raise Stopped(_cut_short[-1].signal_number)


@contextmanager
def cut_short(request: StopRequest) -> Iterator[None]:
    """Let a request to stop raise `Stopped` in the block, at the next `end_if_asked`."""
    _cut_short.append(request)
    try:
        yield
    finally:
        _cut_short.pop()


@contextmanager
def stop_on_signals(may_repeat: bool = False) -> Iterator[StopRequest]:
    """Record the first signal of STOP_SIGNALS and go on; a second one exits at once.

    A SIGHUP or SIGUSR1 that is ignored, as under nohup, stays ignored. The earlier handlers return
    after the block.

    Args:
        may_repeat: whether a second signal is ignored. A launcher of several processes forwards a
            signal that the processes have already received, and kills those that take too long.
    """
    end_if_asked()
    request = StopRequest()

    def note(signal_number: int, _frame: FrameType | None) -> None:
        if request.signal_number and not may_repeat:
            os._exit(exit_code(signal_number))
        if not may_repeat:
            # Not with print: the signal may have interrupted a print.
            with suppress(OSError):  # stderr is closed
                os.write(2, b"stopping after this step; a second signal exits at once, unsaved\n")
        request.signal_number = signal_number

    numbers = [signal.SIGTERM, signal.SIGINT, *_not_ignored((signal.SIGHUP, signal.SIGUSR1))]
    _requests.append(request)
    try:
        with _handled(numbers, note):
            yield request
    finally:
        _requests.remove(request)


def is_training() -> bool:
    """Whether a `stop_on_signals` block runs, where a sudden end would lose work."""
    return bool(_requests)


def ask_to_stop(signal_number: int) -> None:
    """Ask the running `stop_on_signals` block to stop, as the signal would."""
    _requests[-1].signal_number = _requests[-1].signal_number or signal_number


@contextmanager
def children_leave_signals() -> Iterator[None]:
    """Let processes that are started in the block ignore the signals that stop the program.

    The system sends Ctrl-C, and often SIGTERM, to all processes of a program. The main one decides
    when to stop, and needs the others until then. It may end them itself: see `obey_parent`.
    """
    numbers: tuple[signal.Signals, ...] = STOP_SIGNALS
    if not hasattr(signal, "sigwaitinfo"):  # macOS does not say who sent a signal
        numbers = tuple(number for number in STOP_SIGNALS if number is not signal.SIGTERM)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)  # children inherit it
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def obey_parent() -> None:
    """End this process, started in `children_leave_signals`, when its parent sends a SIGTERM."""
    parent = os.getppid()

    def wait() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
            pass
        os._exit(0)

    if hasattr(signal, "sigwaitinfo"):
        threading.Thread(target=wait, daemon=True).start()


def _not_ignored(numbers: Iterable[signal.Signals]) -> list[signal.Signals]:
    return [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]


@contextmanager
def _handled(
    numbers: Iterable[int], handler: Callable[[int, FrameType | None], None]
) -> Iterator[None]:
    """Let signals call a handler in the block; in other threads than the main one, do nothing."""
    is_main = threading.current_thread() is threading.main_thread()
    previous = {number: signal.signal(number, handler) for number in numbers if is_main}
    try:
        yield
    finally:
        for number, earlier in previous.items():
            signal.signal(number, earlier)

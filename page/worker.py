"""One thread owns the networks: it does the work of all tabs, a step of some of them in turn.

Work is an iterator of events. `Worker.run` takes the next event of a few Jobs, round and round, so
that no tab waits for another one to finish. A newer Job of a tab ends the older one at its next
step. A Job whose reader lags behind lets others go first; it pauses, and ends when nobody reads for
long.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

from page.checks import RequestError
from utils.errors import UserError, is_out_of_memory, one_line

log = logging.getLogger(__name__)

Event = dict[str, Any]
"""What the browser gets: a name under "event", and plain data."""

MOST_JOBS = 64
MOST_UNREAD = 4  # events that wait for their reader before a Job pauses
LAGGING = 2  # so many of them let other Jobs go first
MOST_AT_ONCE = 4  # Jobs that take turns
STALE_SECONDS = 1.0  # after which a Job that is not read makes room for another one
FIRST_SECONDS = 1.0  # of work, that a newer Job does before an older one
EQUAL_SECONDS = 0.05  # of work, by which Jobs that take turns may differ
PATIENCE_SECONDS = 60.0  # how long a Job waits for its reader
IDLE_SECONDS = 1.0
CLOSED = RequestError("the server ends", 503)


class Job:
    """Work for one tab.

    Attributes:
        tab: the tab; it has one Job at a time.
        seconds: of work that it took so far.
    """

    def __init__(
        self, tab: str, begin: Callable[[], Iterator[Event]], send: Callable[[Event | None], None]
    ) -> None:
        """Describe the work.

        Args:
            tab: the tab.
            begin: returns the events; called by the thread that owns the networks.
            send: takes each event, and None after the last one; called by that thread.
        """
        self.tab = tab
        self.seconds = 0.0
        self._begin, self._send = begin, send
        self._events: Iterator[Event] | None = None
        self._unread = 0
        self._heard = time.monotonic()
        self._ended: str | None = None
        self._lock = threading.Lock()

    def was_read(self) -> None:
        """Note that the reader has taken an event."""
        with self._lock:
            self._unread -= 1
            self._heard = time.monotonic()

    def end(self, reason: str = "") -> None:
        """Ask the Job to end at its next step, and to tell the reason if there is one."""
        self._ended = self._ended or reason or "left"

    def can_go_on(self) -> bool:
        """Whether the reader keeps up; a Job that has been asked to end goes on, to its end."""
        with self._lock:
            waits = self._unread >= MOST_UNREAD
            if waits and time.monotonic() - self._heard > PATIENCE_SECONDS:
                self._ended = self._ended or "nobody reads it"
            return not waits or self._ended is not None

    def is_ending(self) -> bool:
        """Whether the Job has been asked to end."""
        return self._ended is not None

    def lags(self) -> bool:
        """Whether other Jobs should go first, because the reader is slow."""
        with self._lock:
            return self._unread >= LAGGING

    def unheard(self) -> float:
        """Return for how many seconds the reader has not taken an event that is there for it."""
        with self._lock:
            return time.monotonic() - self._heard if self._unread else 0.0

    def step(self) -> bool:
        """Send the next event; returns whether there may be more."""
        began = time.monotonic()
        is_going_on = self._step()
        self.seconds += time.monotonic() - began
        return is_going_on

    def _step(self) -> bool:
        if self._ended is not None:
            self._put({"event": "ended", "reason": self._ended})
            return self._close()
        try:
            self._events = self._events or self._begin()
            event = next(self._events, None)
        except Exception as error:  # one request must not end the server
            event = {"event": "failed", "message": message_of(error)}
            self._put(event)
            return self._close()
        if event is None:
            return self._close()
        self._put(event)
        return True

    def _put(self, event: Event) -> None:
        with self._lock:
            self._unread += 1
        self._send(event)

    def _close(self) -> bool:
        """End the work, and tell the reader that nothing follows."""
        self._events = None
        self._send(None)
        return False


class Worker:
    """The thread that owns the networks."""

    def __init__(self) -> None:
        self._jobs: list[Job] = []
        self._calls: list[tuple[Callable[[], Any], Future[Any]]] = []
        self._is_closed = False
        self._changed = threading.Condition()

    def submit(self, job: Job) -> None:
        """Begin a Job, and end the earlier one of its tab.

        If there are too many Jobs, the one whose reader has taken nothing for longest ends.

        Raises:
            RequestError: if there are too many Jobs, and all of them are read.
        """
        with self._changed:
            self._refuse_if_closed()
            for other in self._jobs:
                if other.tab == job.tab:
                    other.end("a newer request of the same tab")
            others = [other for other in self._jobs if not other.is_ending()]
            if len(others) >= MOST_JOBS:
                unheard = max(others, key=Job.unheard)
                if unheard.unheard() < STALE_SECONDS:
                    raise RequestError(f"the server is busy with {MOST_JOBS} requests", 503)
                unheard.end("nobody reads it")
            self._jobs.append(job)
            self._changed.notify()

    def call(self, function: Callable[[], Any]) -> Future[Any]:
        """Let the thread call a function between two steps; returns its coming result.

        Raises:
            RequestError: if the thread has ended.
        """
        future: Future[Any] = Future()
        with self._changed:
            self._refuse_if_closed()
            self._calls.append((function, future))
            self._changed.notify()
        return future

    def wake(self) -> None:
        """Let the thread look again at which Jobs can go on."""
        with self._changed:
            self._changed.notify()

    def run(self, is_over: Callable[[], bool]) -> None:
        """Do the work of all Jobs until `is_over`."""
        while not is_over():
            with self._changed:
                ready = self._turn()
                if not ready and not self._calls:
                    self._changed.wait(IDLE_SECONDS)
                    continue
            finished = []
            for job in ready:
                self._answer_calls()  # they are short, and a Job's step may be long
                finished += [] if job.step() else [job]
            self._answer_calls()
            with self._changed:
                self._jobs = [job for job in self._jobs if job not in finished]

    def close(self) -> None:
        """End all Jobs and calls, so that those who wait for them hear of it, and refuse others."""
        with self._changed:
            self._is_closed = True
            jobs, calls, self._jobs, self._calls = self._jobs, self._calls, [], []
        for job in jobs:
            job.end(str(CLOSED))
            job.step()
        for _, future in calls:
            if future.set_running_or_notify_cancel():
                future.set_exception(CLOSED)

    def _answer_calls(self) -> None:
        """Call the functions that others have asked for."""
        while self._calls:
            with self._changed:
                function, future = self._calls.pop(0)
            _answer(function, future)

    def _turn(self) -> list[Job]:
        """Choose the Jobs that take a step, in the order in which they came.

        Those with the least work so far go first, and of equal ones the newest: a small request
        need not wait for many large ones. Those whose readers lag behind come last.
        """
        ready = [job for job in self._jobs if job.can_go_on()]
        going_on = [job for job in reversed(ready) if not job.is_ending()]
        going_on.sort(key=lambda job: (job.lags(), job.seconds // FIRST_SECONDS))
        in_turn = going_on[:MOST_AT_ONCE]
        least = min((job.seconds for job in in_turn), default=0.0)
        later = {job for job in in_turn if job.seconds > least + EQUAL_SECONDS}
        return [job for job in ready if job not in later and (job in in_turn or job.is_ending())]

    def _refuse_if_closed(self) -> None:
        if self._is_closed:
            raise CLOSED


def message_of(error: Exception) -> str:
    """Say in one line what went wrong; what is no mistake of the user is also logged."""
    if isinstance(error, UserError):
        return str(error)
    if is_out_of_memory(error):
        return "out of memory: make fewer images at once"
    log.error("a request failed", exc_info=error)
    return f"the server failed: {type(error).__name__}: {one_line(error, 200)}"


def _answer(function: Callable[[], Any], future: Future[Any]) -> None:
    """Call a function and hand over what it returns or raises."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function())
    except Exception as error:  # the caller reports it
        future.set_exception(error)
    except BaseException:  # Ctrl-C, perhaps after the result was set
        if not future.done():
            future.set_exception(CLOSED)
        raise

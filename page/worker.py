"""One thread owns the networks: it does the work of all tabs, a step of some of them in turn.

Work is an iterator of events. `Worker.run` takes the next event of one Job after another. The
newest few Jobs share the time equally, so a new request soon shows something, however many wait. A
Job pauses while its reader is behind, and then it is not one of those few. A newer Job of a tab
ends the older one at its next step.
"""

import asyncio
import json
import logging
import queue
import threading
import time
import zlib
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import Future
from contextlib import aclosing, suppress
from typing import Any

from page.checks import RequestError
from utils.errors import UserError, is_out_of_memory, one_line
from utils.signals import end_if_asked

log = logging.getLogger(__name__)

Event = dict[str, Any]
"""What the browser gets: a name under "event", and plain data."""

MOST_JOBS = 64
MOST_UNREAD = 2  # events that wait for their reader before a Job pauses
MOST_AT_ONCE = 4  # Jobs that share the time
IDLE_SECONDS = 1.0
CLOSED = RequestError("the server is ending", 503)


class Job:
    """Work for one tab.

    Attributes:
        tab: the tab; it has one Job at a time.
        served: seconds of work, counted from those of the Jobs that it joined.
    """

    def __init__(
        self, tab: str, events: Iterator[Event], send: Callable[[Event | None], None]
    ) -> None:
        """Describe the work.

        Args:
            tab: the tab.
            events: what the thread that owns the networks makes, one at a time.
            send: takes each event, and None after the last one; called by that thread.
        """
        self.tab = tab
        self.served = 0.0
        self._events, self._send = events, send
        self._num_sent = 0  # only the thread that owns the networks changes it
        self._num_read = 0  # only the reader's thread changes it
        self._ended: str | None = None

    def was_read(self) -> None:
        """Note that the reader has taken an event."""
        self._num_read += 1

    def end(self, reason: str = "") -> None:
        """Ask the Job to end at its next step, and to give the reason if there is one."""
        self._ended = self._ended or reason or "left"

    def is_ending(self) -> bool:
        """Whether the Job has been asked to end."""
        return self._ended is not None

    def is_paused(self) -> bool:
        """Whether the reader is too far behind."""
        return self._num_sent - self._num_read >= MOST_UNREAD

    def step(self) -> bool:
        """Send the next event; returns whether there may be more."""
        began = time.monotonic()
        event: Event | None
        if self._ended is not None:
            event = {"event": "ended", "reason": self._ended}
        else:
            try:
                event = next(self._events, None)
            except Exception as error:  # one request must not end the server
                event = {"event": "failed", "message": message_of(error)}
        self.served += time.monotonic() - began
        if event is not None:
            self._num_sent += 1
            self._send(event)
        if event is not None and event["event"] not in ("ended", "failed"):
            return True
        self._events = iter(())  # what it holds is not needed while the rest is read
        self._send(None)
        return False


class Worker:
    """The thread that owns the networks."""

    def __init__(self) -> None:
        self._jobs: list[Job] = []  # the oldest first
        self._calls: list[tuple[Callable[[], Any], Future[Any]]] = []
        self._served = 0.0  # `Job.served` of the Job that was chosen last; it never falls
        self._is_closed = False
        # Ctrl-C may come at any moment. In a Condition, which is Python code, it can leave the lock
        # held forever. These two are written in C, and it cannot.
        self._lock = threading.RLock()
        self._wakes: queue.SimpleQueue[None] = queue.SimpleQueue()

    def submit(self, job: Job) -> None:
        """Begin a Job, and end the earlier one of its tab.

        If there are too many Jobs, the oldest one ends, or the oldest paused one if there is one.

        Raises:
            RequestError: if the thread has ended.
        """
        with self._lock:
            self._refuse_if_closed()
            for other in self._jobs:
                if other.tab == job.tab:
                    other.end("a newer request of the same tab")
            others = [other for other in self._jobs if not other.is_ending()]
            if len(others) >= MOST_JOBS:
                oldest = max(others, key=Job.is_paused)  # the first of equal ones
                oldest.end("the server is busy with newer requests")
            self._jobs.append(job)
        self.wake()

    def call(self, function: Callable[[], Any]) -> Future[Any]:
        """Let the thread call a function between two steps; returns its coming result.

        Raises:
            RequestError: if the thread has ended.
        """
        future: Future[Any] = Future()
        with self._lock:
            self._refuse_if_closed()
            self._calls.append((function, future))
        self.wake()
        return future

    def wake(self) -> None:
        """Let the thread look again at which Jobs can go on."""
        if self._wakes.empty():
            self._wakes.put(None)

    def run(self, is_over: Callable[[], bool]) -> None:
        """Do the work of all Jobs until `is_over`, or until a signal asks the program to end."""
        while not is_over():
            end_if_asked()
            with self._lock:
                job = self._next_job()
            if job is None and not self._calls:
                with suppress(queue.Empty):
                    self._wakes.get(timeout=IDLE_SECONDS)
                continue
            self._answer_calls()  # they are short, and a Job's step may be long
            if job is not None and not job.step():
                with self._lock:
                    self._jobs.remove(job)

    def close(self) -> None:
        """End all Jobs and calls, answer those who wait for them, and refuse new ones."""
        with self._lock:
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
            with self._lock:
                function, future = self._calls.pop(0)
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function())
            except Exception as error:  # the caller reports it
                future.set_exception(error)
            except BaseException:  # Ctrl-C, perhaps after the result was set
                if not future.done():
                    future.set_exception(CLOSED)
                raise

    def _next_job(self) -> Job | None:
        """Choose the Job that takes a step: of the newest few, the one that was served least.

        A Job that joins them, or comes back from a pause, does not catch up on what it missed.
        """
        for job in self._jobs:
            if job.is_ending():
                return job
        in_turn = [job for job in self._jobs if not job.is_paused()][-MOST_AT_ONCE:]
        for job in in_turn:
            job.served = max(job.served, self._served)
        chosen = min(in_turn, key=lambda job: job.served, default=None)
        if chosen is not None:
            self._served = chosen.served
        return chosen

    def _refuse_if_closed(self) -> None:
        if self._is_closed:
            raise CLOSED


def stream(
    worker: Worker, tab: str, events: Iterator[Event], with_flags: Callable[[str], str]
) -> AsyncGenerator[bytes, None]:
    """Begin a Job; returns its events as server-sent ones, and ends it when their reader leaves.

    Raises:
        RequestError: if the thread has ended.
    """
    loop = asyncio.get_running_loop()
    waiting: asyncio.Queue[Event | None] = asyncio.Queue()

    def send_soon(event: Event | None) -> None:
        with suppress(RuntimeError):  # the server has ended
            loop.call_soon_threadsafe(waiting.put_nowait, event)

    async def read() -> AsyncGenerator[bytes, None]:
        try:
            while (event := await waiting.get()) is not None:
                if event["event"] == "failed":
                    event = {**event, "message": with_flags(event["message"])}
                yield f"event: {event['event']}\ndata: {json.dumps(event)}\n\n".encode()
                yield b""  # goes on when the event has left
                job.was_read()
                worker.wake()
        finally:
            job.end()
            worker.wake()

    job = Job(tab, events, send_soon)
    worker.submit(job)
    return read()


async def compressed(events: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Compress a stream of events; each one arrives without waiting for the next."""
    gzip = zlib.compressobj(wbits=31)  # with the header of gzip
    async with aclosing(events):
        async for event in events:
            yield gzip.compress(event) + gzip.flush(zlib.Z_SYNC_FLUSH) if event else event
    yield gzip.flush()


def message_of(error: Exception) -> str:
    """Describe an error in one line; anything but a mistake of the user is also logged."""
    if isinstance(error, UserError):
        return str(error)
    if is_out_of_memory(error):
        return "out of memory: make fewer images at once"
    log.error("a request failed", exc_info=error)
    return f"the server failed: {type(error).__name__}: {one_line(error, 200)}"

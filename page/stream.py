"""The way of a Job's events to the browser: server-sent events, perhaps compressed."""

import asyncio
import json
import zlib
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from page.worker import Event, Job, Worker


class Stream:
    """The events of a Job on their way from its thread to the server's."""

    def __init__(self, worker: Worker, with_flags: Callable[[str], str]) -> None:
        self._worker, self._with_flags = worker, with_flags
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()

    def send_soon(self, event: Event | None) -> None:
        """Hand over an event; called by the thread that owns the networks."""
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
        except RuntimeError:  # the server has ended
            return

    async def read(self, job: Job) -> AsyncGenerator[bytes, None]:
        """Yield the events of a Job as server-sent events; it ends when its reader leaves."""
        try:
            while (event := await self._events.get()) is not None:
                name = event["event"]
                if name == "failed":
                    event = {**event, "message": self._with_flags(event["message"])}
                yield f"event: {name}\ndata: {json.dumps(event)}\n\n".encode()
                yield b""  # goes on when the event has left
                job.was_read()
                self._worker.wake()
        finally:
            job.end()
            self._worker.wake()


async def compressed(events: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Compress a stream of events; each one arrives without waiting for the next."""
    gzip = zlib.compressobj(wbits=31)  # with the header of gzip
    async with aclosing(events):
        async for event in events:
            yield gzip.compress(event) + gzip.flush(zlib.Z_SYNC_FLUSH) if event else event
    yield gzip.flush()

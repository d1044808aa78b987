"""The server's socket and thread, and which connections it keeps. Needs uvicorn.

Whoever reaches the port can open connections and send nothing, or read nothing. So a connection
that owes the server a request, or does not read its answer, is closed after some seconds. When
there are too many connections, the one that has owed for longest makes room.
"""

import asyncio
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from utils.errors import UserError, failures_of

CLOSING_SECONDS = 1.0
REQUEST_SECONDS = 10.0  # for a request to come in, or the next part of its body
READ_SECONDS = 60.0  # for what was sent to be read
MOST_HEADER = 32 << 10  # bytes
MOST_CONNECTIONS = 512
WAITING_CONNECTIONS = 128  # that the system keeps until they are accepted
SENT_AHEAD = 64 << 10  # bytes that the system keeps for a reader who is slow


class Connection(H11Protocol):
    """A connection of a browser."""

    owing: ClassVar[dict["Connection", None]] = {}  # those that the server waits for, in order
    until: asyncio.TimerHandle | None = None  # how long it waits for this one

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a request, in the place of another connection if there are too many."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(0)  # a slow reader is noticed at once
        self._wait_if_it_owes()
        if len(self.connections) > _most_connections():
            next(iter(self.owing)).leave()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Stop waiting once a request is there; wait again for each part of its body."""
        super().data_received(data)
        if self.cycle is not None and self.cycle.more_body:
            self._stop_waiting()
        self._wait_if_it_owes()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._wait_if_it_owes()

    def pause_writing(self) -> None:
        """Wait for the reader."""
        super().pause_writing()
        self._wait_if_it_owes()

    def resume_writing(self) -> None:
        """Stop waiting: everything has been read."""
        super().resume_writing()
        self._wait_if_it_owes()

    def leave(self) -> None:
        """Close the connection at once."""
        self._stop_waiting()
        self.connections.discard(self)
        self.transport.abort()

    def _wait_if_it_owes(self) -> None:
        is_idle = self.cycle is None or self.cycle.response_complete or self.cycle.more_body
        if self not in self.connections or not (is_idle or self.flow.write_paused):
            self._stop_waiting()
        elif self not in self.owing:
            self.owing[self] = None
            seconds = READ_SECONDS if self.flow.write_paused else REQUEST_SECONDS
            self.until = self.loop.call_later(seconds, self.leave)

    def _stop_waiting(self) -> None:
        self.owing.pop(self, None)
        if self.until is not None:
            self.until.cancel()


def _most_connections() -> int:
    """Return how many connections there may be: files have to be opened, too."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(MOST_CONNECTIONS, files // 2) if files > 0 else MOST_CONNECTIONS  # -1 is any number


def listen(host: str, port: int) -> socket.socket:
    """Open the socket of the server; port 0 takes any free one.

    Raises:
        UserError: if host or port cannot be had.
    """
    what = f"cannot listen on {host} port {port}"
    with failures_of(what, "; choose another"), ExitStack() as opened:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except UnicodeError as error:  # a label of the name is empty or too long
            raise UserError(f"{what}: no host has such a name; choose another") from error
        family, _, _, _, address = found[0]
        listening = opened.enter_context(socket.socket(family, socket.SOCK_STREAM))
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SENT_AHEAD)
        listening.bind(address)
        listening.listen(WAITING_CONNECTIONS)
        opened.pop_all()
    return listening


@contextmanager
def running(app: Any, listening: socket.socket) -> Iterator[Callable[[], bool]]:
    """Run a server in a thread of its own during the block; yields whether it has ended."""
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="critical",  # the application reports its own errors
        access_log=False,
        server_header=False,
        lifespan="off",
        http=Connection,
        ws="none",
        h11_max_incomplete_event_size=MOST_HEADER,
        timeout_keep_alive=int(REQUEST_SECONDS),  # as for a first request
        timeout_graceful_shutdown=int(CLOSING_SECONDS),
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [listening]}, daemon=True, name="page"
    )
    thread.start()
    try:
        yield lambda: not thread.is_alive()
    finally:
        server.should_exit = True
        thread.join(3 * CLOSING_SECONDS)

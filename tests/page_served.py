"""Pages that threads of this process serve, and how a browser would ask them."""

import base64
import json
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_events import byte_by_byte

import page.server
from MaskGIT import main
from page.connections import running
from page.safety import Guard
from page.server import application
from page.worker import Worker


@dataclass
class Served:
    """A server: its address, the folder of its runs, its process, and what it says at the end.

    A server in this process has only an address.
    """

    url: str
    output: Path | None = None
    process: "subprocess.Popen[str] | None" = None
    said_later: "Future[str] | None" = None
    cookie: str = ""

    def ask(
        self, path: str, body: bytes | dict[str, Any] | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Send a request; returns the status, the headers and the body."""
        named = {"Cookie": self.cookie} if self.cookie else {}
        named |= {name.replace("_", "-"): value for name, value in headers.items()}
        if isinstance(body, dict):
            body, named = json.dumps(body).encode(), {"Content-Type": "application/json", **named}
        request = urllib.request.Request(self.url + path, body, named)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, dict(answer.headers), answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, dict(error.headers), error.read()

    def json(self, path: str) -> Any:
        status, _, body = self.ask(path)
        assert status == 200, body
        return json.loads(body)

    @property
    def model(self) -> str:
        return self.json("api/page")["models"][0]["id"]

    def request(self, **more: Any) -> dict[str, Any]:
        """The request of a tab for two images."""
        return {"tab": "one", "model": self.model, "count": 2, "seed": 3, "labels": [3, 4]} | more

    def events(self, **more: Any) -> list[dict[str, Any]]:
        """Decode images; returns all events as the browser completes them.

        The surest images are parts of their steps, every step has the values of all cells, and the
        files come at the end.
        """
        status, _, body = self.ask("api/decode", self.request(**more))
        assert status == 200, body
        blocks = body.decode().strip().split("\n\n")
        events = [json.loads(block.split("\ndata: ", 1)[1]) for block in blocks]
        steps = {event["step"]: event for event in events if event["event"] == "step"}
        for event in events:
            if event["event"] == "surest":
                steps[event["step"]].update(surest=event["surest"])
        values: dict[str, np.ndarray] = {}
        was_hidden: Any = slice(None)
        for step in steps.values():
            for name in ("tokens", "confidence"):
                new = byte_by_byte(step[name])
                values[name] = values.get(name, np.zeros_like(new)).copy()
                values[name][was_hidden] = new
                step[name] = base64.b64encode(values[name].tobytes()).decode()
            was_hidden = np.frombuffer(base64.b64decode(step["hidden"]), "u1") != 0
        if steps:
            events[-1].update(files=list(steps.values())[-1].get("files"))
        return [event for event in events if event["event"] != "surest"]

    def refusal(self, **more: Any) -> str:
        """Send a wrong request; returns the line that says why it is refused."""
        status, _, body = self.ask("api/decode", self.request(**more))
        assert status in (400, 404), (status, body)
        message = json.loads(body)["message"]
        assert message.count("\n") == 0
        return message


@contextmanager
def in_threads(listening: socket.socket, application_on: Callable[[Worker], Any]) -> Iterator[None]:
    """Serve by threads of this process."""
    worker, is_over = Worker(), threading.Event()
    thread = threading.Thread(target=worker.run, args=(is_over.is_set,), daemon=True)
    thread.start()
    with listening, running(application_on(worker), listening):
        yield
        is_over.set()
        worker.wake()
        thread.join()


@contextmanager
def serving(data_dir: Path) -> Iterator[Callable[..., Served]]:
    """Serve the page of a command line by threads of this process; they end with the block."""
    with ExitStack() as servers:

        def start(output: Path, *options: str) -> Served:
            ports = []

            def begin(page, listening, *of_guard) -> None:
                app_on = partial(guarded, page, of_guard)
                ports.append(listening.getsockname()[1])
                servers.enter_context(in_threads(listening, app_on))

            def guarded(page, of_guard, worker) -> Guard:
                return Guard(application(page, worker), *of_guard)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(page.server, "serve", begin)
                command = ["--page", "0", "--output_dir", output, "--data_dir", data_dir]
                main([*map(str, command), *options])
            return Served(f"http://127.0.0.1:{ports[0]}/", output)

        yield start

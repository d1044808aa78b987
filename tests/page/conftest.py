"""A page that is served by the real command line, and how a browser would ask it."""

import base64
import importlib
import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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
from page.connections import listen, running
from page.safety import Guard
from page.server import Page, application
from page.worker import Worker

ROOT = Path(__file__).parents[2]
START_SECONDS = 300


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


@pytest.fixture(scope="session")
def serve(data_dir: Path) -> Iterator[Callable[..., Served]]:
    """Serve the page of a command line by threads of this process; they end with the tests."""
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


@pytest.fixture(scope="module")
def process(data_dir: Path, runs: Path) -> Iterator[Served]:
    """A server in a process of its own, open to other machines; a tab that has the token."""
    command = [sys.executable, ROOT / "MaskGIT.py", "--page", "0.0.0.0:0"]
    command += ["--output_dir", runs, "--data_dir", data_dir]
    with (
        subprocess.Popen(
            [*map(str, command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            cwd=ROOT,
        ) as server,
        ThreadPoolExecutor(1) as reader,
    ):
        timer = threading.Timer(START_SECONDS, server.kill)
        timer.start()
        said = ""
        while not (found := re.search(r"open http://0.0.0.0:(\d+)/\?token=(\S+)", said)):
            line = server.stdout.readline()
            assert line, said
            said += line
        timer.cancel()
        server.stdout.readline()  # how to end it
        port, token = found.groups()
        # What it says later must not fill the pipe.
        later = reader.submit(server.stdout.read)
        cookie = f"maskgit_{port}={token}"
        yield Served(f"http://127.0.0.1:{port}/", runs, server, later, cookie)
        server.terminate()


@pytest.fixture
def serve_here() -> Iterator[Callable[[Page], Served]]:
    """Serve a page by threads of this process."""
    with ExitStack() as servers:

        def start(page: Page) -> Served:
            listening = listen("127.0.0.1", 0)
            servers.enter_context(in_threads(listening, partial(application, page)))
            return Served(f"http://127.0.0.1:{listening.getsockname()[1]}/")

        yield start


@pytest.fixture(scope="session")
def driver() -> Iterator[Any]:
    """A browser; each server has an address of its own, and so its own storage in it."""
    page_browser = importlib.import_module("page_browser")  # skips where there is no browser
    driver = page_browser.chromium()
    yield driver
    driver.quit()


@pytest.fixture(scope="session")
def runs(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An --output_dir of its own with the trained run and its tokens."""
    output = tmp_path_factory.mktemp("page") / "runs"
    for folder in (trained, trained.parent / "tokens"):
        shutil.copytree(folder, output / folder.name)
    return output


@pytest.fixture(scope="session")
def served(serve: Callable[..., Served], runs: Path) -> Served:
    """The page on the trained run."""
    return serve(runs)


@pytest.fixture(name="page")
def _page(driver: Any, served: Served) -> Iterator[Any]:
    """A tab on the page, without what the tests before it have kept."""
    browser = importlib.import_module("page_browser").Browser(driver, served.url)
    browser.forget()
    driver.get_log("browser")
    browser.open()
    yield browser
    # Nothing may fail silently, nor may the policy of the page forbid anything of its own.
    said = [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
    assert [one for one in said if "status of 4" not in one["message"]] == []


@pytest.fixture
def sweep(runs: Path) -> Iterator[None]:
    """The table of a sweep in the run, with an image for each row; the last has no FID."""
    from metrics.sweep_table import SweepTable

    table = SweepTable(runs / "mnist" / "sweep", {"images": 10})
    for number, (steps, guidance) in enumerate([(4, 0), (4, 3), (8, 0), (8, 3)]):
        setting = {"step": steps, "cfg_w": guidance}
        images = np.full((10, 32, 32, 1), 80 * number, np.uint8)
        list(table.keep_strip(setting, iter([(images, np.zeros(10))])))
        fid = 1.5 - number / 4 if number < 3 else math.inf
        scores = {"fid": fid, "recall": 0.5 - number / 8, "seconds": 2}
        table.add(setting, scores)
    yield
    shutil.rmtree(runs / "mnist" / "sweep")

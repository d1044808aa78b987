"""A page that is served by the real command line, and how a browser would ask it."""

import importlib
import math
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_served import Served, in_threads, serving

from page.connections import listen
from page.server import Page, application

ROOT = Path(__file__).parents[2]
START_SECONDS = 300


@pytest.fixture(scope="session")
def serve(data_dir: Path) -> Iterator[Callable[..., Served]]:
    """Serve pages by threads of this process; they end with the tests."""
    with serving(data_dir) as start:
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
        with suppress(subprocess.TimeoutExpired):
            server.wait(START_SECONDS)
        server.kill()


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
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser; each server has an address of its own, and so its own storage in it."""
    page_browser = importlib.import_module("page_browser")  # skips where there is no browser
    driver = page_browser.chromium(tmp_path_factory.mktemp("home"))
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

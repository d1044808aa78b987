"""How quickly the page answers, alone and with several tabs at once, and whether it mixes them up.

    python benchmarks/page_load.py --checkpoint runs/demo/MaskGIT_fashionmnist.pt

Starts the page, and asks it as browsers do. The first picture is the first step that arrives with
known tokens. Under load every tab asks again and again for images of a seed of its own; finished
images must be those that the seed gave alone. Times include the transfer, but no drawing.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
ALONE_REQUESTS = 5


@dataclass
class Times:
    """What a tab has measured, in seconds.

    Attributes:
        first: from the request to the first picture.
        between: between two steps.
        lost: requests that did not end in images.
        mixed_up: requests that ended in other images than those of their seed.
    """

    first: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)
    lost: int = 0
    mixed_up: int = 0

    def show(self, title: str) -> str:
        """Write the medians and the slowest twentieth."""
        said = [f"{title}: {len(self.first)} requests"]
        for name, values in (("first picture", self.first), ("between steps", self.between)):
            slow = statistics.quantiles(values, n=20)[-1]
            said.append(f"{name} {1e3 * statistics.median(values):.0f} ms (95 %: {1e3 * slow:.0f})")
        return ", ".join(said)


@contextmanager
def page(checkpoint: str) -> Iterator[str]:
    """Start the page for the block; yields its address."""
    command = [sys.executable, "MaskGIT.py", "--page", "0", "--checkpoint", checkpoint]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            for line in server.stdout:
                found = re.search(r"open (http://\S+)", line)
                if found:
                    yield found[1]
                    break
        finally:
            server.terminate()


def events(url: str, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Decode images and yield the events as they come."""
    headers = {"Content-Type": "application/json"}
    asked = urllib.request.Request(f"{url}api/decode", json.dumps(request).encode(), headers)
    with urllib.request.urlopen(asked) as answer:
        for line in answer:
            if line.startswith(b"data: "):
                yield json.loads(line.removeprefix(b"data: "))


def ask(url: str, request: dict[str, Any], times: Times) -> list[str]:
    """Decode images once, and note the times; returns the files, none if they did not come."""
    last = asked = time.perf_counter()
    files: list[str] = []
    for event in events(url, request):
        now = time.perf_counter()
        if event["event"] == "done":
            return files
        files = event.get("files", files)
        if event["event"] == "step" and event["step"] == 1:
            times.first.append(now - asked)
        elif event["event"] == "step" and event["step"] > 1:
            times.between.append(now - last)
        last = now
    return []


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True, help="trained model")
    parser.add_argument("--tabs", type=int, default=8, help="tabs at once [8]")
    parser.add_argument("--seconds", type=float, default=120, help="time under load [120]")
    parser.add_argument("--images", type=int, default=16, help="images of a request [16]")
    options = parser.parse_args()
    static = ROOT / "page" / "static"
    size = sum(file.stat().st_size for file in static.iterdir())
    sys.stdout.write(f"page: {size / 1e3:.0f} kB in {len(list(static.iterdir()))} files\n")
    with page(options.checkpoint) as url:
        with urllib.request.urlopen(f"{url}api/page") as answer:
            model = json.load(answer)["models"][0]["id"]

        def request(tab: int) -> dict[str, Any]:
            return {"tab": str(tab), "model": model, "count": options.images, "seed": tab}

        # Alone: also the images that each seed must give.
        wanted = {tab: ask(url, request(tab), Times()) for tab in range(options.tabs)}
        alone = Times()
        for _ in range(ALONE_REQUESTS):
            ask(url, request(0), alone)
        sys.stdout.write(f"{alone.show('one tab')}\n")
        # All at once.
        until = time.monotonic() + options.seconds
        loaded = {tab: Times() for tab in wanted}

        def work(tab: int) -> None:
            while time.monotonic() < until:
                files = ask(url, request(tab), loaded[tab])
                loaded[tab].lost += not files
                loaded[tab].mixed_up += bool(files) and files != wanted[tab]

        threads = [threading.Thread(target=work, args=[tab]) for tab in wanted]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    together = Times()
    for times in loaded.values():
        together.first += times.first
        together.between += times.between
    counts = [len(times.first) for times in loaded.values()]
    sys.stdout.write(
        f"{together.show(f'{options.tabs} tabs')}, {min(counts)} to {max(counts)} for each tab, "
        f"{sum(times.lost for times in loaded.values())} lost, "
        f"{sum(times.mixed_up for times in loaded.values())} mixed up\n"
    )


if __name__ == "__main__":
    main()

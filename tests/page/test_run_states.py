"""What the page says of runs that train, were killed, or are finished."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from page.run_reader import RunReader

ROOT = Path(__file__).parents[2]
# A process for each run holds its lock and writes rows until it is killed; the first one finishes.
TRAIN = """
import os, sys, time
from pathlib import Path
from training.run_folder import RunFiles
from training.tracking import MetricsFile
from utils.files import exclusive_lock

for number, name in enumerate(sys.argv[1:]):
    if os.fork():
        continue
    run, steps = RunFiles(Path(name)), 10**6 if number else 5
    with exclusive_lock(run.lock, "busy"):
        file = MetricsFile(run.metrics("maskgit"), 0)
        for step in range(1, steps + 1):
            clock = {"train/progress": step / steps, "train/images": 32.0 * step}
            file.log({"train/images_per_second": 1e3, **clock}, step)
            if step == 5 < steps:
                os.write(1, f"{os.getpid()} {run.path.name}\\n".encode())
            time.sleep(1e-3)
    os.write(1, f"{os.getpid()} {run.path.name}\\n".encode())
    os._exit(0)
time.sleep(600)
"""


@pytest.fixture
def pids(tmp_path):
    """The runs by name, each with the process that trains it, or that has finished it."""
    names = ["finished", *map(str, range(20))]
    for name in names:
        (tmp_path / name).mkdir()
    command = [sys.executable, "-c", TRAIN, *(str(tmp_path / name) for name in names)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as parent:
        lines = [parent.stdout.readline().split() for _ in names]
        yield {name: int(pid) for pid, name in lines}
        os.killpg(parent.pid, signal.SIGKILL)


def test_what_is_said_of_20_killed_runs_is_right(pids, tmp_path):
    runs = RunReader(lambda: sorted(tmp_path.iterdir()), [])
    if any(run["trains"] is None for run in runs.described()):
        pytest.skip("this system does not list its locks")
    alive = sorted(set(pids) - {"finished"})
    for name in np.random.default_rng(0).permutation(alive).tolist():
        assert {run["name"] for run in runs.described() if run["trains"]} == set(alive)
        os.kill(pids[name], signal.SIGKILL)
        alive.remove(name)
        while any(run["trains"] for run in runs.described() if run["name"] == name):
            pass  # the kernel has not ended it yet
    for run in runs.described():
        assert not run["trains"]
        lines = (tmp_path / run["name"] / "metrics.jsonl").read_text().split("\n")
        row = json.loads(lines[-2])  # after the last newline comes nothing, or half a row
        assert run["progress"] == row["train/progress"]
        assert (run["progress"] == 1) == (run["name"] == "finished")
        left = row["train/images"] * (1 / row["train/progress"] - 1) / 1e3
        assert run["left"] == pytest.approx(left)

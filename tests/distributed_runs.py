"""Runs of the command line in one launch of several processes: `distributed_runs.py PLAN.json`.

The plan has "runs", argument strings in which RANK stands for the number of the process, and
perhaps "signal": (rank, step, name), which that process then sends itself at that step, and
"refused": runs that come first and must be refused in every process. With "size" the script forks
that many processes itself, which takes less time than torchrun, where each loads torch.
"""

import json
import os
import signal
import socket
import sys
from contextlib import nullcontext, suppress
from pathlib import Path

import torch

import training.curves
from MaskGIT import main
from training.transformer import MaskGITStage
from utils import launch
from utils.processes import Processes, launched_processes


def fork(size):
    """Become one of several processes; the first one waits for the others and ends as they do."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": str(size)}
    children = []
    for rank in range(size):
        child = os.fork()
        if child == 0:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            return
        children.append(child)
    statuses = [os.waitpid(child, 0)[1] for child in children]
    sys.exit(max(os.waitstatus_to_exitcode(status) for status in statuses))


plan = json.loads(Path(sys.argv[1]).read_text())
if "size" in plan:
    fork(plan["size"])
processes = launched_processes()
torch.set_num_threads(1)
make_step = MaskGITStage.train_step


def train_step(stage, step):
    rank, at_step, name = plan.get("signal", (None, None, None))
    if (rank, at_step) == (processes.rank, step):
        os.kill(os.getpid(), signal.Signals[name])
    return make_step(stage, step)


def run(arguments):
    main(arguments.replace("RANK", str(processes.rank)).split())


MaskGITStage.train_step = train_step
training.curves.draw_run = lambda *_: None  # as conftest.py does
with processes.connected(torch.device("cpu")):
    Processes.connected = lambda *_: nullcontext()  # one connection serves all runs
    grace, launch.GRACE_SECONDS = launch.GRACE_SECONDS, 0.0
    for arguments in plan.get("refused", ()):
        with suppress(SystemExit):
            run(arguments)
            raise AssertionError(f"not refused: {arguments}")
    launch.GRACE_SECONDS = grace
    for arguments in plan["runs"]:
        run(arguments)

# A thread that outlives its group may still free a tensor while Python shuts down, which aborts.
threads = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
assert not any("gloo" in name for name in threads), threads

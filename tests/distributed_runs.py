"""Runs of the command line in several processes, forked or torchrun's (`distributed_runs.py PLAN`).

The plan has "runs", argument strings in which RANK stands for the number of the process, and
perhaps "signal": (rank, step, name), which that process then sends itself at that step, and
"refused": runs that come first and must be refused in every process.
"""

import json
import os
import signal
import socket
import sys
import tempfile
from contextlib import nullcontext, suppress
from pathlib import Path
from subprocess import CompletedProcess

import torch
from children import exit_code, fork

import data.token_cache
import training.charts
from MaskGIT import main
from training.transformer_stage import MaskGITStage
from utils import launch
from utils.processes import Processes, launched_processes


def run_plan(plan):
    """Run it as one of the processes; changes this process for good."""
    processes, make_step = launched_processes(), MaskGITStage.train_step

    def train_step(stage, step):
        rank, at_step, name = plan.get("signal", (None, None, None))
        if (rank, at_step) == (processes.rank, step):
            os.kill(os.getpid(), signal.Signals[name])
        return make_step(stage, step)

    def run(arguments):
        main(arguments.replace("RANK", str(processes.rank)).split())

    torch.set_num_threads(1)
    MaskGITStage.train_step = train_step
    training.charts.draw_run = lambda *_: None  # as conftest.py does
    data.token_cache.BLOCK = 8  # so that every process has some
    with processes.connected(torch.device("cpu")):
        Processes.connected = lambda *_: nullcontext()  # one connection serves all runs
        grace, launch.GRACE_SECONDS = launch.GRACE_SECONDS, 0.0
        for arguments in plan.get("refused", ()):
            with suppress(SystemExit):
                run(arguments)
                raise AssertionError(f"not refused: {arguments}")
        launch.GRACE_SECONDS = plan.get("grace", grace)
        for arguments in plan["runs"]:
            run(arguments)

    # A thread that outlives its group may still free a tensor as Python shuts down, which aborts.
    threads = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    assert not any("gloo" in name for name in threads), threads


def forked(size, **plan):
    """Run a plan in so many children; gives the code of the first one that failed, and the output.

    As torchrun does, it ends the others when the main one has failed, unless `plan` has a "grace":
    seconds after which they notice.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    job = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size)}

    def work(rank):
        os.environ |= {**job, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        run_plan(plan)

    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        files = (output.fileno(), errors.fileno())
        children = [fork(lambda rank=rank: work(rank), *files) for rank in range(size)]
        codes = [exit_code(children[0])]
        if codes[0] and "grace" not in plan:
            for child in children[1:]:
                os.kill(child, signal.SIGTERM)
        codes += map(exit_code, children[1:])
        texts = [file.seek(0) or file.read() for file in (output, errors)]
    return CompletedProcess(plan, next(filter(None, codes), 0), *texts)


if __name__ == "__main__":
    run_plan(json.loads(Path(sys.argv[1]).read_text()))

"""What a training step and a decoding step start on a GPU, with each value of --compile.

    python benchmarks/launches.py

Model and batches are those of speed.py. "operations" are what torch dispatches to the device, views
and allocations left out; compiled code and CUDA graphs dispatch none of their own. The other
columns are what torch.profiler sees on CUDA: calls that start kernels (one call starts all those of
a graph), kernels, and the time of kernels and copies. "busy" is its share of the step's time
without the profiler. A decoding step is guided: it is what sampling in MANY steps takes more than
in FEW, so that neither the start nor the pixels count.
"""

import json
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.measure import HOW, Work, arguments, interleaved, say, say_machine, set_up
from benchmarks.speed import Bench
from models.generator import ImageSeries
from models.sampling import SamplingConfig

TRAINED = 10  # training steps that are measured together
FEW, MANY = 2, 10  # decoding steps
# Allocations, and a view whose schema does not say that it is one.
WITHOUT_KERNEL = {"empty", "empty_like", "empty_strided", "new_empty", "_unsafe_view"}
# Categories in a trace of the profiler.
CALLS = {"cuda_runtime", "cuda_driver"}
ON_CARD = {"kernel", "gpu_memcpy", "gpu_memset"}


class Operations(TorchDispatchMode):
    """Counts in `found`, by name, the operations that compute on a device or copy to or from it."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        tensors = (one for one in tree_leaves((args, kwargs, result)) if isinstance(one, Tensor))
        computes = not func.is_view and name not in WITHOUT_KERNEL
        if computes and any(tensor.device.type == self.device.type for tensor in tensors):
            self.found[name] += 1
        return result


def operations(work: Work, device: torch.device) -> Counter[str]:
    """Count what a work dispatches to a device, by name."""
    with Operations(device) as counting:
        work()
    return counting.found


def on_card(work: Work) -> tuple[int, int, float]:
    """Return the calls that start kernels, the kernels, and the busy seconds of a work on CUDA."""
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        work()
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        seen.export_chrome_trace(str(path))
        return read_trace(path)


def read_trace(path: Path) -> tuple[int, int, float]:
    """Return what `on_card` does, from a Chrome trace of the profiler."""
    events = [event for event in json.loads(path.read_text())["traceEvents"] if "cat" in event]
    starts = sum(event["cat"] in CALLS and "Launch" in event["name"] for event in events)
    kernels = sum(event["cat"] == "kernel" for event in events)
    microseconds = sum(event["dur"] for event in events if event["cat"] in ON_CARD)
    return starts, kernels, microseconds / 1e6


def line(name: str, setting: str, step: np.ndarray) -> str:
    """Write seconds, operations, starts, kernels and busy seconds of a step; nan is unknown."""
    seconds, dispatched, starts, kernels, busy = step
    values = (1000 * seconds, dispatched, starts, kernels, 1000 * busy, 100 * busy / seconds)
    texts = ("-" if np.isnan(value) else f"{value:.1f}" for value in values)
    return f"{name:8s}  {setting:7s}" + "".join(f"  {text:>10s}" for text in texts)


def say_steps(setting: str, bench: Bench, rounds: int) -> None:
    """Print a line for a training step, and one for a decoding step."""
    device, labels = bench.device, bench.labels[: bench.sample_images].tolist()

    def sampling(steps: int) -> Work:
        series = ImageSeries(labels, SamplingConfig(num_steps=steps), block_size=len(labels))
        return lambda: list(bench.model.sample_blocks(series))

    works: dict[str, Work] = {
        "training": lambda: [bench.stage.train_step(step) for step in range(TRAINED)],
        "few": sampling(FEW),
        "many": sampling(MANY),
    }
    seconds = interleaved(works, device, rounds)
    found = {}
    for name, work in works.items():
        dispatched = operations(work, device).total() if setting == "off" else np.nan
        seen = on_card(work) if device.type == "cuda" else (np.nan,) * 3
        found[name] = np.array([seconds[name], dispatched, *seen])
    say(line("training", setting, found["training"] / TRAINED))
    say(line("decoding", setting, (found["many"] - found["few"]) / (MANY - FEW)))


def main() -> None:
    """Print the table."""
    parser = arguments(__doc__)
    parser.add_argument("--compile", nargs="+", default=HOW, choices=HOW)
    options = parser.parse_args()
    device, precision = set_up(options)
    say_machine(device, precision)
    titles = ("ms", "operations", "starts", "kernels", "kernels ms", "busy %")
    say("step      compile" + "".join(f"  {title:>10s}" for title in titles))
    for setting in options.compile:
        say_steps(setting, Bench(device, precision, setting, False, 32), options.rounds)


if __name__ == "__main__":
    main()

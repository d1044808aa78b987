"""What the benchmarks of speed share: options, a stage, timing in turns, counts of operations."""

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from data.token_set import TokenSet
from models.decoding import make_plan
from models.maskgit.config import TransformerConfig
from models.model import Model
from models.sampling import SamplingConfig
from training.config import TrainingConfig
from training.transformer_stage import MaskGITStage
from utils.cuda_graphs import has_cuda_graphs
from utils.device import choose_device, choose_precision, set_up_device
from utils.processes import ALONE

Work = Callable[[], object]
HOW = ("off", "auto", "on")  # values of the program's option --compile


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Make a parser with the options of all benchmarks."""
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, formatter_class=kind)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"))
    parser.add_argument("--rounds", type=int, default=5, help="timings of each work")
    return parser


def set_up(options: argparse.Namespace) -> tuple[torch.device, torch.dtype]:
    """Choose device and precision, and torch's settings for them."""
    device = ALONE.own_device(choose_device(options.device))
    precision = choose_precision(options.precision, device)
    set_up_device(device, precision, deterministic=False)
    return device, precision


def say_machine(device: torch.device, precision: torch.dtype) -> None:
    """Print the device, its precision, the threads and the version of torch."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device
    say(f"{name}, {precision}, {torch.get_num_threads()} threads, torch {torch.__version__}")


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def new_stage(
    config: TransformerConfig,
    training: TrainingConfig,
    tokens: TokenSet,
    device: torch.device,
    precision: torch.dtype,
    how: str,
) -> MaskGITStage:
    """Make the stage that trains a transformer on these tokens; `how` is one of HOW."""
    return MaskGITStage(
        config,
        training,
        tokens,
        TokenSet(tokens.tokens[:, :1], tokens.labels[:1]),  # it is not validated
        device=device,
        precision=precision,
        checkpoint_entries={},
        preview=lambda *_: None,
        compile_model=how == "on",
        cuda_graphs=how == "auto" and has_cuda_graphs(device),
    )


def set_up_model(model: Model, how: str) -> None:
    """Let a model sample as the program does with --compile."""
    model.cuda_graphs.is_on &= how == "auto"
    if how == "on":
        model.compile()


def interleaved(works: dict[str, Work], device: torch.device, rounds: int) -> dict[str, float]:
    """Median seconds of each work, after a warm-up, the works taking turns."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        for _ in range(3 if device.type == "cuda" else 1):  # the second time records CUDA graphs
            work()
    for _ in range(rounds):
        for name, work in works.items():
            times[name].append(timed(work, device))
    return {name: statistics.median(values) for name, values in times.items()}


def timed(work: Work, device: torch.device) -> float:
    """Seconds that a work takes on its device."""
    if device.type != "cuda":
        start = time.perf_counter()
        work()
        return time.perf_counter() - start
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before.record()
    work()
    after.record()
    torch.cuda.synchronize()
    return before.elapsed_time(after) / 1000


def product_size(device: torch.device) -> int:
    """Side of a product that is large for a device: on a GPU starting it takes no share of it."""
    return 8192 if device.type == "cuda" else 2048


def matrix_product(device: torch.device, precision: torch.dtype) -> Work:
    """A square product, the measure of what the hardware can do."""
    size = product_size(device)
    a, b = torch.randn(2, size, size, device=device, dtype=precision)
    return lambda: a @ b


def product_rate(seconds: float, device: torch.device, precision: torch.dtype) -> float:
    """Print and return the operations per second of a `matrix_product` of this duration."""
    size = product_size(device)
    rate = 2 * size**3 / seconds
    say(f"matrix product of {size}, {precision}: {rate / 1e9:.0f} GFLOP/s")
    return rate


def counted_flops(work: Work) -> float:
    """Operations of the matrix products and convolutions of a work."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def forward_flops(config: TransformerConfig, predicted: float) -> float:
    """Operations of the matrix products of one image, `predicted` of whose tokens get logits."""
    length, width, embedded = config.seq_len + 1, config.hidden_dim, config.embed_dim
    mapped = embedded * width if embedded != width else 0
    block = 8 * width**2 + 4 * width * config.mlp_dim + 4 * length * width
    ends = 4 * width**2 + 2 * mapped
    head = 2 * (width**2 + mapped + embedded * config.codebook_size)
    return length * (config.depth * block + ends) + predicted * head


def training_flops(config: TransformerConfig) -> float:
    """Forward and backward of one image; arccos masks hide 2 / pi of the tokens."""
    return 3 * forward_flops(config, config.seq_len * 2 / np.pi)


def sampling_flops(config: TransformerConfig, images: int, sampling: SamplingConfig) -> float:
    """The transformer's part of one image: what all begin with is computed once per label."""
    guidance = make_plan(config.seq_len, sampling).guidance
    first = min(1, (config.num_classes + 1) / images)
    of_images = guidance if sampling.start_share else guidance[1:]
    passes = first + sum(2 if weight else 1 for weight in of_images)
    return passes * forward_flops(config, config.seq_len)

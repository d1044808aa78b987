"""How fast training, sampling and tokenizing are, against a plain implementation (baseline.py).

    python benchmarks/speed.py

Both get the same weights and inputs and run alternately; the table shows the median of the rounds.
Default options, the default VQ-GAN, 32 x 32 gray images, 64 tokens. Each peak of memory is that of
a process of its own. Shares are of what a large matrix product of the same precision reaches in the
same rounds. The second table doubles the image's side twice with the same number of tokens per
batch, and puts the slowdown beside the one that the operation count predicts.

"interval" is sampling with guidance in an interval alone, beside the same baseline, which guides at
every step: fewer passes of the transformer, and other images. "student" is that of a student of one
step (`--distill 1`).
"""

import argparse
import copy
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.baseline import PlainTransformer, Trainer
from benchmarks.baseline import sample as plain_sample
from data.token_set import TokenSet
from models.decoding import make_plan
from models.generator import ImageSeries
from models.maskgit.config import TransformerConfig
from models.model import Model
from models.sampling import SamplingConfig
from models.tokenizer import Tokenizer
from models.vqgan.config import VQGANConfig
from models.vqgan.network import VQModel
from training.config import TrainingConfig
from training.distillation import student_settings
from training.transformer_stage import MaskGITStage
from utils.device import choose_device, choose_precision, precision_name, set_up_device
from utils.memory import peak_memory
from utils.pictures import from_uint8
from utils.processes import ALONE

TOKENS_PER_BATCH = 256 * 64  # training; a quarter of it in sampling
CLASSES = 10
PRODUCT_SIZE = 2048
CURVED = ("training", "sampling")  # works of the second table
IMPLEMENTATIONS = ("ours", "baseline")
Work = Callable[[], object]


class Pair(NamedTuple):
    """The same work done twice, by our code and by the baseline's.

    Attributes:
        images: of one call.
        flops: operations that an image takes in matrix products and convolutions.
        precision: of our products.
        ours: our code.
        baseline: the baseline's.
    """

    images: int
    flops: float
    precision: torch.dtype
    ours: Work
    baseline: Work


class Bench:
    """One set of weights and inputs, and the works on them by both implementations."""

    def __init__(
        self,
        device: torch.device,
        precision: torch.dtype,
        compiled: Sequence[str],
        image_size: int,
    ) -> None:
        """Make them; `compiled` has the names of IMPLEMENTATIONS that go through torch.compile."""
        self.device, self.precision, self.compiled = device, precision, compiled
        torch.manual_seed(0)
        vqgan_config = VQGANConfig(
            image_size=(image_size,) * 2, attn_resolutions=(image_size // 2,)
        )
        self.vqgan = VQModel(vqgan_config).eval().requires_grad_(False).to(device)
        model = VQModel(vqgan_config)
        model.load_state_dict(self.vqgan.state_dict())
        self.tokenizer = Tokenizer(model).to(device)
        seq_len = vqgan_config.seq_len
        self.train_images = TOKENS_PER_BATCH // seq_len
        self.sample_images = self.train_images // 4
        generator = np.random.default_rng(0)
        shape = (self.train_images, 1, image_size, image_size)
        self.pixels = torch.from_numpy(generator.integers(0, 256, shape, np.uint8))
        self.labels = torch.arange(self.train_images) % CLASSES
        self.config = TransformerConfig(vqgan_config.codebook_size, CLASSES, seq_len)
        self.sampling = SamplingConfig()
        self.with_interval = SamplingConfig(guidance_schedule="interval")
        tokens = generator.integers(0, self.config.codebook_size, (1, self.train_images, seq_len))
        token_set = TokenSet(tokens.astype(np.uint16), self.labels.numpy())
        self.stage = MaskGITStage(
            self.config,
            TrainingConfig(batch_size=self.train_images),
            token_set,
            token_set,
            device=device,
            precision=precision,
            checkpoint_entries={},
            preview=lambda model, path: None,
            compile_model="ours" in compiled,
        )
        self.plain = PlainTransformer(self.config).to(device)
        self.plain.load_ours(self.stage.model)
        self.plain_vqgan = copy.deepcopy(self.vqgan)
        if "baseline" in compiled:
            for network in (self.plain, self.plain_vqgan.encoder, self.plain_vqgan.decoder):
                network.compile()
        self.trainer = Trainer(self.plain, self.plain_vqgan)
        names = tuple(str(label) for label in range(CLASSES))
        self.model = Model(self.stage.ema.module, self.tokenizer, "", names, precision)
        if "ours" in compiled:
            self.model.compile()

    def works(self) -> dict[str, Pair]:
        """What is compared, by name."""
        labels = self.labels.to(self.device)
        images = from_uint8(self.pixels.to(self.device))
        return {
            "training": Pair(
                self.train_images,
                training_flops(self.config),
                self.precision,
                lambda: self.stage.train_step(1),
                lambda: self.trainer.step(images, labels),
            ),
            "sampling": self._sampling(self.sampling),
            "interval": self._sampling(self.with_interval),
            "student": self._sampling(student_settings(1)),
            "tokenizing": Pair(
                self.train_images,
                counted_flops(lambda: self.vqgan.encode(images[:1])),
                torch.float32,
                lambda: self.tokenizer.encode(from_uint8(self.pixels.to(self.device))),
                lambda: self.plain_vqgan.encode(images),
            ),
        }

    def _sampling(self, sampling: SamplingConfig) -> Pair:
        """Ours with these settings, and the baseline with the defaults."""
        labels = self.labels[: self.sample_images]
        few, device_labels = len(labels), labels.to(self.device)
        one_grid = torch.zeros((1, *self.vqgan.config.grid), dtype=torch.int64, device=self.device)
        counts = make_plan(self.config.seq_len, self.sampling).counts.tolist()
        series = ImageSeries(labels.tolist(), sampling, block_size=few)
        return Pair(
            few,
            sampling_flops(self.config, few, sampling)
            + counted_flops(lambda: self.vqgan.decode_tokens(one_grid)),
            self.precision,
            lambda: list(self.model.sample_blocks(series)),
            lambda: plain_sample(
                self.plain, self.plain_vqgan, device_labels, self.sampling, counts
            ),
        )


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"))
    text = "which of both go through torch.compile"
    parser.add_argument("--compile", nargs="+", default=[], choices=IMPLEMENTATIONS, help=text)
    parser.add_argument("--rounds", type=int, default=5, help="timings of each work")
    parser.add_argument("--size", type=int, default=32, help=argparse.SUPPRESS)
    parser.add_argument("--peak_of", help=argparse.SUPPRESS)  # what a process of its own runs
    options = parser.parse_args()
    device = ALONE.own_device(choose_device(options.device))
    precision = choose_precision(options.precision, device)
    set_up_device(device, precision, deterministic=False)
    bench = partial(Bench, device, precision, options.compile)
    if options.peak_of:
        name, implementation = options.peak_of.split(":")
        work: Work = getattr(bench(options.size).works()[name], implementation)
        work()
        work()
        say(f"{peak_memory(device)}")
        return
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device
    say(f"{name}, {precision}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    compare(bench(32), options.rounds)
    say("")
    cost_curve(bench, options.rounds)


def compare(bench: Bench, rounds: int) -> None:
    """Print images/s of ours and the baseline, their ratio, peak memory and share of the GEMM."""
    works = bench.works()
    precisions = {pair.precision for pair in works.values()}
    calls = {str(precision): matrix_product(bench.device, precision) for precision in precisions}
    for name, pair in works.items():
        calls |= {f"ours {name}": pair.ours, f"baseline {name}": pair.baseline}
    seconds = interleaved(calls, bench.device, rounds)
    peaks = {precision: 2 * PRODUCT_SIZE**3 / seconds[str(precision)] for precision in precisions}
    for precision, peak in peaks.items():
        say(f"matrix product of {PRODUCT_SIZE}, {precision}: {peak / 1e9:.0f} GFLOP/s")
    say("work         ours img/s  baseline img/s  ratio  ours MB  baseline MB  share of product")
    for name, pair in works.items():
        ours = pair.images / seconds[f"ours {name}"]
        plain = pair.images / seconds[f"baseline {name}"]
        megabytes = [peak_of(name, by, 32, bench) / 1e6 for by in IMPLEMENTATIONS]
        share = 100 * ours * pair.flops / peaks[pair.precision]
        say(
            f"{name:12s} {ours:10.1f}  {plain:14.1f}  {ours / plain:5.2f}  {megabytes[0]:7.0f}"
            f"  {megabytes[1]:11.0f}  {share:14.0f} %"
        )


def cost_curve(bench: Callable[[int], Bench], rounds: int) -> None:
    """Print images/s and peak memory of training and sampling at 64, 256 and 1024 tokens."""
    say(
        "tokens  batch  training img/s  slower  predicted    MB  sampling img/s  slower"
        "  predicted    MB"
    )
    first: dict[str, tuple[float, float]] = {}
    for size in (32, 64, 128):
        current = bench(size)
        works = {name: pair for name, pair in current.works().items() if name in CURVED}
        seconds = interleaved({n: p.ours for n, p in works.items()}, current.device, rounds)
        line = f"{current.config.seq_len:6d}  {current.train_images:5d}"
        for name, pair in works.items():
            rate = pair.images / seconds[name]
            first.setdefault(name, (rate, pair.flops))
            slower, predicted = first[name][0] / rate, pair.flops / first[name][1]
            megabytes = peak_of(name, "ours", size, current) / 1e6
            line += f"  {rate:14.1f}  {slower:6.1f}  {predicted:9.1f}  {megabytes:4.0f}"
        say(line)


def interleaved(works: dict[str, Work], device: torch.device, rounds: int) -> dict[str, float]:
    """Median seconds of each work, after one warm-up, the works taking turns."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
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


def matrix_product(device: torch.device, precision: torch.dtype) -> Work:
    """A square product, the measure of what the hardware can do."""
    a, b = torch.randn(2, PRODUCT_SIZE, PRODUCT_SIZE, device=device, dtype=precision)
    return lambda: a @ b


def counted_flops(work: Work) -> float:
    """Operations of the matrix products and convolutions of a work."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def forward_flops(config: TransformerConfig, predicted: float) -> float:
    """Operations of the matrix products of one image, `predicted` of whose tokens get logits."""
    length, width = config.seq_len + 1, config.hidden_dim
    block = 8 * width**2 + 4 * width * config.mlp_dim + 4 * length * width
    ends = 4 * width**2 + 2 * config.embed_dim * width
    head = 2 * (width**2 + config.embed_dim * (width + config.codebook_size))
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


def peak_of(name: str, implementation: str, size: int, bench: Bench) -> int:
    """Peak memory in bytes of two calls of a work, in a process of its own."""
    precision = precision_name(bench.precision)
    command = [sys.executable, __file__, "--device", str(bench.device), "--precision", precision,
               "--size", str(size), "--peak_of", f"{name}:{implementation}",
               *(["--compile", *bench.compiled] if bench.compiled else [])]  # fmt: skip
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

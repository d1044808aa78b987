"""How fast training, sampling and tokenizing are, against a plain implementation (baseline.py).

    python benchmarks/speed.py    # on CUDA with each value of --compile

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
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.baseline import PlainTransformer, Trainer
from benchmarks.baseline import sample as plain_sample
from benchmarks.measure import (
    HOW,
    Work,
    arguments,
    counted_flops,
    interleaved,
    matrix_product,
    new_stage,
    product_rate,
    sampling_flops,
    say,
    say_machine,
    set_up,
    set_up_model,
    training_flops,
)
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
from utils.device import precision_name
from utils.memory import peak_memory
from utils.pictures import from_uint8

TOKENS_PER_BATCH = 256 * 64  # training; a quarter of it in sampling
CLASSES = 10
CURVED = ("training", "sampling")  # works of the second table
IMPLEMENTATIONS = ("ours", "baseline")
EVERY_TABLE = (("off", False), ("auto", False), ("on", True))  # ours; is the baseline compiled?


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
        how: str,
        compiled_baseline: bool,
        image_size: int,
    ) -> None:
        """Make them; `how` is ours, one of HOW."""
        self.device, self.precision = device, precision
        self.how, self.compiled_baseline = how, compiled_baseline
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
        training = TrainingConfig(batch_size=self.train_images)
        self.stage = new_stage(self.config, training, token_set, device, precision, how)
        self.plain = PlainTransformer(self.config).to(device)
        self.plain.load_ours(self.stage.model)
        self.plain_vqgan = copy.deepcopy(self.vqgan)
        if compiled_baseline:
            for network in (self.plain, self.plain_vqgan.encoder, self.plain_vqgan.decoder):
                network.compile()
        self.trainer = Trainer(self.plain, self.plain_vqgan)
        names = tuple(str(label) for label in range(CLASSES))
        self.model = Model(self.stage.ema.module, self.tokenizer, "", names, precision)
        set_up_model(self.model, how)

    def works(self) -> dict[str, Pair]:
        """What is compared, by name."""
        labels = self.labels.to(self.device)
        images = from_uint8(self.pixels.to(self.device))
        # On CUDA a step is prepared while the card computes the one before.
        steps = range(10 if self.device.type == "cuda" else 1)
        return {
            "training": Pair(
                self.train_images * len(steps),
                training_flops(self.config),
                self.precision,
                lambda: [self.stage.train_step(step) for step in steps],
                lambda: [self.trainer.step(images, labels) for _ in steps],
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
    """Print the tables."""
    parser = arguments(__doc__)
    parser.add_argument("--compile", choices=HOW, help="that of ours")
    text = "let the baseline go through torch.compile"
    parser.add_argument("--compile_baseline", action="store_true", help=text)
    parser.add_argument("--size", type=int, default=32, help=argparse.SUPPRESS)
    parser.add_argument("--peak_of", help=argparse.SUPPRESS)  # what a process of its own runs
    options = parser.parse_args()
    device, precision = set_up(options)
    how, compiled = options.compile or "auto", options.compile_baseline
    if options.peak_of:
        name, implementation = options.peak_of.split(":")
        bench = Bench(device, precision, how, compiled, options.size)
        work: Work = getattr(bench.works()[name], implementation)
        work()
        work()
        say(f"{peak_memory(device)}")
        return
    say_machine(device, precision)
    tables = [(how, compiled)] if options.compile or device.type != "cuda" else EVERY_TABLE
    for ours, baseline in tables:
        say(f"ours with --compile {ours}, the baseline {'compiled' if baseline else 'plain'}")
        compare(Bench(device, precision, ours, baseline, 32), options.rounds)
        say("")
    cost_curve(partial(Bench, device, precision, how, compiled), options.rounds)


def compare(bench: Bench, rounds: int) -> None:
    """Print images/s of ours and the baseline, their ratio, peak memory and share of the GEMM."""
    works = bench.works()
    precisions = {pair.precision for pair in works.values()}
    calls = {str(precision): matrix_product(bench.device, precision) for precision in precisions}
    for name, pair in works.items():
        calls |= {f"ours {name}": pair.ours, f"baseline {name}": pair.baseline}
    seconds = interleaved(calls, bench.device, rounds)
    peaks = {one: product_rate(seconds[str(one)], bench.device, one) for one in precisions}
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


def peak_of(name: str, implementation: str, size: int, bench: Bench) -> int:
    """Peak memory in bytes of two calls of a work, in a process of its own."""
    precision = precision_name(bench.precision)
    command = [sys.executable, __file__, "--device", str(bench.device), "--precision", precision,
               "--size", str(size), "--peak_of", f"{name}:{implementation}",
               "--compile", bench.how,
               *(["--compile_baseline"] if bench.compiled_baseline else [])]  # fmt: skip
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()

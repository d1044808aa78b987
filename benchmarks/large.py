"""Speed and memory at a published size: 24 blocks, 768 wide, 256 tokens, 16,384 codes.

    python benchmarks/large.py              # --compile: that of the program

Every number of the size is an option. The tokens are random, and low codes are likelier than high
ones, so that there is something to learn; they are a memory-mapped file as large as the cache of
ImageNet under its flips (1.3 GB). First the transformer is trained, then a student of one step is
distilled from it. Last, networks of random weights sample to pixels, with guidance; the student
needs none.

"GB" is the peak of memory, and "--dry_run" what that measures without the tokens, which a GPU keeps
too; on the CPU both are of the whole process. "loss" is the mean of the first and of the last tenth
of the steps. Shares are of what a large matrix product reaches here, and of the dense products in
bfloat16 that the maker of the card names.
"""

import math
import statistics
import sys
import tempfile
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.measure import (
    HOW,
    arguments,
    interleaved,
    matrix_product,
    new_stage,
    product_rate,
    sampling_flops,
    say,
    say_machine,
    set_up,
    set_up_model,
    timed,
    training_flops,
)
from commands.trial import cost_of_steps
from data.token_set import TokenSet, token_type
from models.family import Transformer
from models.generator import ImageSeries
from models.maskgit.config import TransformerConfig
from models.model import Model
from models.open import new_transformer
from models.sampling import SamplingConfig
from models.tokenizer import Tokenizer
from models.vqgan.config import VQGANConfig
from models.vqgan.network import VQModel
from training.config import UPDATES_PER_EPOCH, DistillConfig, TrainingConfig
from training.distillation import DistillationStage, student_settings
from training.stage import Stage
from training.transformer_stage import MaskGITStage, num_parts
from utils.memory import peak_memory, reset_peak

EPOCHS, IMAGES, VIEWS = 300, 1_281_167, 2  # of ImageNet
FACTOR = 16  # pixels per token along one side
WRITTEN = 2**14  # images of the file that are drawn at once
SAMPLED = (
    ("teacher", SamplingConfig(num_steps=8)),
    ("teacher", SamplingConfig(num_steps=32)),
    ("student", student_settings(1)),
)
# Dense products of bfloat16 in TFLOP/s, by a part of the card's name; the first one that fits.
CARDS = {"H100 80GB HBM3": 989, "H200 NVL": 836, "H200": 989, "A100": 312}


@dataclass(frozen=True)
class Size:
    """The numbers of the benchmark, all of them options.

    Attributes:
        steps: of training, and of distillation.
        pixels: along a side of the images, in training too.
        larger: the same of other images, that are only sampled.
        sampled: images at once.
        channels: of the VQ-GAN at full resolution.
    """

    depth: int = 24
    width: int = 768
    heads: int = 8
    codes: int = 16_384
    classes: int = 1000
    images: int = IMAGES
    batch: int = 256
    student_batch: int = 32
    steps: int = 200
    pixels: int = 256
    larger: int = 384
    sampled: int = 32
    channels: int = 128

    def transformer(self, pixels: int) -> TransformerConfig:
        """Return the transformer's shape for images of this size."""
        return TransformerConfig(
            self.codes,
            self.classes,
            (pixels // FACTOR) ** 2,
            embed_dim=self.width,
            hidden_dim=self.width,
            depth=self.depth,
            heads=self.heads,
            mlp_dim=4 * self.width,
        )

    def tokenizer(self, pixels: int) -> VQGANConfig:
        """Return the shape of taming's f16 for images of this size."""
        return VQGANConfig(
            image_size=(pixels, pixels),
            image_channels=3,
            channels=self.channels,
            z_channels=256,
            ch_mult=(1, 1, 2, 2, 4),
            attn_resolutions=(pixels // FACTOR,),
            n_embed=self.codes,
            embed_dim=256,
        )


@dataclass(frozen=True)
class Setup:
    """What all parts of the benchmark know."""

    size: Size
    device: torch.device
    precision: torch.dtype
    how: str  # the program's --compile
    product: float  # operations per second


def random_tokens(size: Size, path: Path) -> TokenSet:
    """Write a file of random tokens, and open it as the cache is opened."""
    shape = (VIEWS, size.images, (size.pixels // FACTOR) ** 2)
    generator = np.random.default_rng(0)
    written = np.lib.format.open_memmap(path, "w+", token_type(size.codes), shape)
    for start in range(0, size.images, WRITTEN):
        part = written[:, start : start + WRITTEN]
        part[:] = size.codes * generator.random(part.shape, np.float32) ** 3
    written.flush()
    labels = generator.integers(size.classes, size=size.images)
    return TokenSet(np.load(path, mmap_mode="c"), labels)


def train(setup: Setup, tokens: TokenSet) -> Transformer:
    """Train the transformer, and print how fast; returns it with averaged weights."""
    size, device = setup.size, setup.device
    config = size.transformer(size.pixels)
    training = TrainingConfig(epochs=EPOCHS, batch_size=size.batch, warmup_epochs=0)

    def stage(count: int, how: str = "auto") -> MaskGITStage:
        some = TokenSet(tokens.tokens[:, :count], tokens.labels[:count])
        return new_stage(config, training, some, device, setup.precision, how)

    parts = num_parts(size.batch, config.seq_len, training.grad_accum, device.type)
    promised = cost_of_steps(stage, size.batch, parts, device).memory
    trained = stage(len(tokens), setup.how)
    rate = learn(setup, "training", trained, trained.images_per_step, promised)
    reached = rate * training_flops(config)
    shares = f"{100 * reached / setup.product:.1f} % of the product"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    card = next((CARDS[part] for part in CARDS if part in name), None)
    if card and setup.precision == torch.bfloat16:
        shares += f", {reached / card / 1e10:.1f} % of the {card} TFLOP/s of the card"
    hours = EPOCHS * IMAGES / rate / 3600
    say(f"training: {shares}; {EPOCHS} epochs of {IMAGES:,} images in {hours:.1f} hours")
    return trained.ema.module


def distill(setup: Setup, teacher: Transformer) -> None:
    """Distill a student of one step, and print how fast."""
    size = setup.size
    training = DistillConfig(epochs=math.ceil(size.steps / UPDATES_PER_EPOCH))

    def stage(count: int) -> DistillationStage:
        return DistillationStage(
            teacher,
            replace(training, batch_size=count),
            device=setup.device,
            precision=setup.precision,
            checkpoint_entries={},
            preview=lambda *_: None,
        )

    promised = cost_of_steps(stage, size.student_batch, 1, setup.device).memory
    learn(setup, "distilling", stage(size.student_batch), size.student_batch, promised)


def learn(setup: Setup, name: str, stage: Stage, images: int, promised: float) -> float:
    """Train for all steps, and print a line of the table; the first half only warms up.

    Args:
        images: of a step.
        promised: bytes of memory.

    Returns:
        Images per second.
    """
    steps, tenth = setup.size.steps, math.ceil(setup.size.steps / 10)
    losses: list[Tensor] = []

    def run(numbers: range) -> None:
        # Copied: the next step may use the same memory.
        losses.extend(stage.train_step(step)["loss"].clone() for step in numbers)

    reset_peak(setup.device)
    run(range(steps // 2))
    half = range(steps // 2, steps)
    rate = images * len(half) / timed(lambda: run(half), setup.device)
    values = torch.stack(losses).tolist()
    first, last = statistics.mean(values[:tenth]), statistics.mean(values[-tenth:])
    peak = peak_memory(setup.device) / 1e9
    say(
        f"{name:10s}  {images:5d}  {rate:8.1f}  {peak:6.2f}  {promised / 1e9:9.2f}"
        f"  {first:10.4f}  {last:9.4f}"
    )
    return rate


def sample(setup: Setup, pixels: int, rounds: int) -> None:
    """Sample images of a size in all settings, and print a line for each."""
    size, device = setup.size, setup.device
    config = size.transformer(pixels)
    names = tuple(map(str, range(size.classes)))
    transformer = new_transformer(config).eval()
    tokenizer = Tokenizer(VQModel(size.tokenizer(pixels)))
    model = Model(transformer, tokenizer, "", names).to(device, setup.precision)
    set_up_model(model, setup.how)
    for name, sampling in SAMPLED:
        labels = [number % size.classes for number in range(size.sampled)]
        series = ImageSeries(labels, sampling, block_size=size.sampled)
        reset_peak(device)
        seconds = interleaved({"": partial(draw, model, series)}, device, rounds)[""]
        rate = size.sampled / seconds
        share = 100 * rate * sampling_flops(config, size.sampled, sampling) / setup.product
        say(
            f"{name}  {pixels:6d}  {sampling.num_steps:5d}  {size.sampled:6d}  {rate:8.1f}"
            f"  {seconds:7.3f}  {peak_memory(device) / 1e9:6.2f}  {share:12.1f} %"
        )


def draw(model: Model, series: ImageSeries) -> None:
    """Sample the images of a series, and drop them."""
    for _ in model.sample_blocks(series):
        pass


def main() -> None:
    """Print the tables."""
    parser = arguments(__doc__)
    parser.add_argument("--compile", choices=HOW, default="auto")
    for one in fields(Size):
        parser.add_argument(f"--{one.name}", type=int, default=one.default, help=f"{one.default:,}")
    options = parser.parse_args()
    device, precision = set_up(options)
    size = Size(**{one.name: getattr(options, one.name) for one in fields(Size)})
    say_machine(device, precision)
    product = {"product": matrix_product(device, precision)}
    rate = product_rate(interleaved(product, device, options.rounds)["product"], device, precision)
    product.clear()  # its matrices are no part of the memory below
    setup = Setup(size, device, precision, options.compile, rate)
    say("work        batch  images/s      GB  --dry_run  loss first       last")
    with tempfile.TemporaryDirectory() as folder:
        teacher = train(setup, random_tokens(size, Path(folder) / "tokens.npy"))
    distill(setup, teacher)
    del teacher
    say("network  pixels  steps  images  images/s  seconds      GB  of the product")
    for pixels in (size.pixels, size.larger):
        sample(setup, pixels, options.rounds)


if __name__ == "__main__":
    main()

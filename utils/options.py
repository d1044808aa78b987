"""The command line: every option, its group, its unit and its default.

Defaults come from the config modules of the models. Nothing imports torch, so that --help and
mistakes are answered at once.
"""

import argparse
import difflib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from models.maskgit.config import (
    CUMULATIVE_SCHEDULES,
    GUIDANCE_SCHEDULES,
    SAMPLERS,
    TRAINING_SCHEDULES,
    SamplingConfig,
    TrainingConfig,
    TransformerConfig,
)
from models.vqgan.config import VQGANConfig, VQGANTrainingConfig
from utils.labels import MAX_SAMPLES
from utils.version import VERSION

MAX_SIDE = 8192  # pixels
LARGEST = 2**53  # of any number; more is a slip of the finger
STRONGEST = 1000.0  # of guidance and temperatures
SIDES = ("left", "right", "top", "bottom")
MODES = (
    "download_only", "train_vae", "reconstruct", "train", "show_plan", "sample", "edit", "evaluate",
    "sweep", "export",
)  # fmt: skip

DESCRIPTION = """\
Train a MaskGIT and sample from it: a frozen VQ-GAN turns images into tokens, a bidirectional
transformer learns to fill in hidden tokens, and images are decoded in a few parallel steps."""

EXAMPLES = """\
examples:
  python MaskGIT.py --train --sample --dataset fashionmnist
  python MaskGIT.py --train_vae --train --sample --dataset cifar10
  python MaskGIT.py --train --dataset cifar10 --checkpoint_vae VQGAN_cifar10.pt
  python MaskGIT.py --sample --checkpoint runs/cifar10/MaskGIT_cifar10.pt --cfg_w 2

Options may be spelled with - or _ between words. Modes may be combined and run in the order above.
"""


@dataclass(frozen=True)
class Options:
    """A parsed command line.

    Attributes:
        values: every option with its value.
        given: names of the options that stood on the command line.
    """

    values: argparse.Namespace
    given: frozenset[str]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.values, name)

    def replace(self, **values: Any) -> "Options":
        """The same command line with other values."""
        return Options(argparse.Namespace(**{**vars(self.values), **values}), self.given)


def parse_options(argv: Sequence[str], datasets: Collection[str]) -> Options:
    """Parse a command line; a mistake ends the process with one line on stderr and code 2.

    Args:
        argv: arguments without the program's name.
        datasets: choices of --dataset.
    """
    parser = build_parser(datasets)
    defaults = vars(parser.parse_args([]))
    unset = object()
    blank = argparse.Namespace(**dict.fromkeys(defaults, unset))
    parsed = vars(parser.parse_args(canonical_spelling(argv, parser), blank))
    given = frozenset(name for name, value in parsed.items() if value is not unset)
    values = {name: parsed[name] if name in given else defaults[name] for name in defaults}
    options = Options(argparse.Namespace(**values), given)
    for name in ("betas", "betas_vae"):
        if len(values[name]) != 2:
            parser.error(f"--{name} needs two numbers, got {values[name]}")
    sides = [side for side, _ in values["outpaint"] or ()]
    if len(set(sides)) < len(sides):
        parser.error(f"--outpaint names a side twice: {' '.join(sides)}")
    if not any(values[mode] for mode in MODES):
        parser.error("choose what to do: " + ", ".join(f"--{mode}" for mode in MODES))
    return options


def option_value(name: str, text: str, datasets: Collection[str]) -> Any:
    """One value of an option, as the command line would read it; mistakes as `parse_options`.

    Args:
        name: of the option, without dashes in front.
        text: its value.
        datasets: choices of --dataset.
    """
    parser = build_parser(datasets)
    return getattr(parser.parse_args(canonical_spelling([f"--{name}={text}"], parser)), name)


def canonical_spelling(argv: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    """Rewrite the option names of a command line to the spelling that the parser knows."""
    known = {_folded(name): name for action in parser._actions for name in action.option_strings}
    result = []
    for argument in argv:
        name, equals, value = argument.partition("=")
        result.append(known.get(_folded(name), name) + equals + value)
    return result


def build_parser(datasets: Collection[str]) -> argparse.ArgumentParser:
    """All options in groups, the specification's with its names and defaults."""
    parser = _Parser(
        prog="MaskGIT.py",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"MaskGIT {VERSION}")
    _add_modes(parser)
    _add_data(parser, datasets)
    _add_vqgan(parser)
    _add_vqgan_training(parser)
    _add_transformer(parser)
    _add_training(parser)
    _add_sampling(parser)
    _add_editing(parser)
    _add_measuring(parser)
    _add_run(parser)
    return parser


def _add_modes(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("modes (at least one; they run in this order)")
    _flag(group, "--download_only", "fetch the dataset")
    _flag(group, "--train_vae", "train the VQ-GAN (stage 1)")
    _flag(group, "--reconstruct", "measure the VQ-GAN on the validation split")
    _flag(group, "--train", "train the MaskGIT transformer (stage 2)")
    _flag(group, "--show_plan", "print what sampling would do at each step")
    _flag(group, "--sample", "generate images with a trained model")
    _flag(group, "--edit", "make part of an image anew with a trained model")
    measured = (
        "measure images against the dataset's: samples of the model (or --images), "
        "or what the tokenizer makes of real ones"
    )
    group.add_argument(
        "--evaluate", nargs="?", choices=("samples", "tokenizer"), const="samples",
        metavar="WHAT", help=f"{measured}: samples, tokenizer [samples]",
    )  # fmt: skip
    grid = 'measure a grid of sampling options, as in "step=4,8,16 cfg_w=0,1,3"'
    _option(group, "--sweep", text, None, "GRID", grid)
    layout = "write the trained transformer in the layout of caetas/GenerativeZoo"
    _option(group, "--export", text, None, "FILE", layout)
    _flag(group, "--dry_run", "print what the other modes would do, and stop")


def _add_data(parser: argparse.ArgumentParser, datasets: Collection[str]) -> None:
    group = parser.add_argument_group("data")
    _choice(group, "--dataset", datasets, "mnist", "dataset")
    _option(group, "--data_dir", text, "datasets", "DIR", "where datasets are or go")
    _option(group, "--cache_dir", text, None, "DIR", "token caches [<output_dir>/tokens]")
    _option(group, "--size", image_side, None, "PIXELS", "image side [the dataset's own]")
    classes = "number of classes; every dataset knows its own, 10 is mnist's"
    _option(group, "--n_classes", positive_int, 10, "N", classes)
    workers = "processes that read images; 0 reads in the main one"
    _option(group, "--num_workers", whole_number, 0, "N", workers)


def _add_vqgan(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "VQ-GAN (they shape a new one; a checkpoint that describes itself decides them)"
    )
    default = VQGANConfig
    checkpoint = "trained VQ-GAN [the run's own, else one bundled for the dataset]"
    _option(group, "--checkpoint_vae", text, None, "FILE", checkpoint)
    _option(group, "--channels", positive_int, default.channels, "N", "base channels")
    _option(group, "--z_channels", positive_int, default.z_channels, "N", "latent channels")
    multipliers = "channel multipliers, one per resolution"
    _list(group, "--ch_mult", int_list, default.ch_mult, "N", multipliers)
    blocks = "residual blocks per resolution"
    _option(group, "--num_res_blocks", positive_int, default.num_res_blocks, "N", blocks)
    attention = "sides of the feature maps that get attention; [] for none"
    _list(group, "--attn_resolutions", int_list, default.attn_resolutions, "N", attention)
    _option(group, "--dropout", rate, default.dropout, "P", "dropout in encoder and decoder")
    _flag(group, "--double_z", "the encoder emits 2 * z_channels")
    _option(group, "--n_embed", positive_int, default.n_embed, "K", "codebook size, to 65536")
    _option(group, "--embed_dim", positive_int, default.embed_dim, "N", "width of a code")
    remap = ".npy with the used codes, to which the alphabet shrinks"
    _option(group, "--remap", text, None, "FILE", remap)
    _flag(group, "--sane_index_shape", "the quantiser returns indices as (B, h, w), not flat")
    labels = (
        "channels of label images (all that they have), shown by --reconstruct in random colours"
    )
    _option(group, "--colorize_nlabels", positive_int, None, "N", labels)


def _add_vqgan_training(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("VQ-GAN training (--train_vae)")
    default = VQGANTrainingConfig
    _option(group, "--n_epochs_vae", positive_int, default.epochs, "N", "epochs")
    _option(group, "--batch_size_vae", positive_int, default.batch_size, "N", "images per step")
    _option(group, "--lr_vae", positive, default.lr, "LR", "peak learning rate")
    warmup = "epochs of linear warm-up, at most a tenth of the run; cosine decay follows"
    _option(group, "--warmup_vae", non_negative, default.warmup_epochs, "EPOCHS", warmup)
    _list(group, "--betas_vae", beta_list, default.betas, "B", "betas of Adam, two numbers")
    start = "step from which the discriminator takes part"
    _option(group, "--disc_start", whole_number, default.disc_start, "STEP", start)
    weight = "weight of the discriminator's loss"
    _option(group, "--disc_weight", non_negative, default.disc_weight, "W", weight)
    weight = "weight of the codebook's loss"
    _option(group, "--codebook_weight", non_negative, default.codebook_weight, "W", weight)
    weight = "weight of the perceptual loss; 0 needs no VGG weights"
    _option(group, "--perceptual_weight", non_negative, default.perceptual_weight, "W", weight)
    vgg = "torchvision's vgg16-397923af.pth, for machines without a network"
    _option(group, "--perceptual_vgg", text, None, "FILE", vgg)


def _add_transformer(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("transformer (a trained checkpoint decides these)")
    default = TransformerConfig
    embedding = "width of the token embedding"
    _option(group, "--embed_dim_t", positive_int, default.embed_dim, "N", embedding)
    width = "width of the blocks, a multiple of --heads"
    _option(group, "--hidden_dim", positive_int, default.hidden_dim, "N", width)
    _option(group, "--heads", positive_int, default.heads, "N", "attention heads")
    _option(group, "--depth", positive_int, default.depth, "N", "number of blocks")
    _option(group, "--mlp_dim", positive_int, default.mlp_dim, "N", "width of the MLPs")
    _option(group, "--dropout_t", rate, default.dropout, "P", "dropout in the transformer")


def _add_training(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training (--train)")
    default = TrainingConfig
    _option(group, "--n_epochs", positive_int, default.epochs, "N", "epochs")
    batch = "images per step over all processes, and images sampled at once"
    _option(group, "--batch_size", positive_int, default.batch_size, "N", batch)
    _option(group, "--lr", positive, default.lr, "LR", "peak learning rate")
    warmup = "epochs of linear warm-up, at most a tenth of the run; cosine decay follows"
    _option(group, "--warmup", whole_number, default.warmup_epochs, "EPOCHS", warmup)
    _list(group, "--betas", beta_list, default.betas, "B", "betas of AdamW, two numbers")
    decay = "weight decay of AdamW, on the weights of linear layers"
    _option(group, "--weight_decay", non_negative, default.weight_decay, "W", decay)
    drop = "share of images trained without their class, for guidance"
    _option(group, "--drop-label", probability, default.label_drop, "P", drop)
    smoothing = "label smoothing of the cross-entropy"
    _option(group, "--label_smoothing", rate, default.label_smoothing, "P", smoothing)
    clip = "largest gradient norm; 0 for no clipping"
    _option(group, "--grad_clip", non_negative, default.grad_clip, "NORM", clip)
    parts = "compute a batch in N parts, to save memory, both stages"
    _option(group, "--grad_accum", positive_int, default.grad_accum, "N", parts)
    ema = "decay of the averaged weights, both stages; 0 for none"
    _option(group, "--ema_decay", rate, default.ema_decay, "D", ema)
    frequency = "epochs between two sample grids and checkpoints, both stages"
    _option(group, "--sample_and_save_freq", positive_int, 20, "EPOCHS", frequency)
    minutes = "longest time between two resume states, both stages"
    _option(group, "--save_every_minutes", positive, 10.0, "MIN", minutes)
    keep = "newest checkpoints that also stay under their step, both stages; 0 keeps one file alone"
    _option(group, "--keep_checkpoints", whole_number, 0, "N", keep)
    _flag(group, "--resume", "continue from the run folder's last state, if there is one")


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sampling (--sample, and the grids of --train)")
    default = SamplingConfig
    _option(group, "--checkpoint", text, None, "FILE", "trained model [the run's own]")
    number = "images; unless given, one for each of --labels, --evaluate 50000, --sweep 1000 each"
    _option(group, "--num_samples", sample_count, 16, "N", number)
    steps = "decoding steps, at most the tokens of an image"
    _option(group, "--step", positive_int, default.num_steps, "T", steps)
    schedules = (*TRAINING_SCHEDULES, *CUMULATIVE_SCHEDULES)
    mode = "mask schedule, in training and sampling; -cumulative is the paper's plan in sampling"
    _choice(group, "--sched_mode", schedules, default.schedule, mode)
    guidance = "guidance at the last step: (1 + W) * class - W * no class"
    _option(group, "--cfg_w", strength, default.guidance, "W", guidance)
    noise = "Gumbel noise on the confidence, ramped down to 0 (samplers confidence, moment)"
    _option(group, "--r_temp", strength, default.choice_temperature, "T", noise)
    sharpness = "factor on the logits before the softmax; above 1 sharpens"
    _option(group, "--sm_temp", scale, default.logit_scale, "S", sharpness)
    start = "token at hidden places at the start; negative for random ones [the mask token]"
    _option(group, "--mask-value", any_whole_number, None, "ID", start)
    labels = "classes in turn: numbers, names, ranges (0-9), none; xN repeats [all]"
    group.add_argument("--labels", nargs="+", metavar="C", help=labels)
    first = "index of the first image; image i of a class is the same whatever the others"
    _option(group, "--first_image", image_index, 0, "I", first)
    order = "which hidden positions are revealed first"
    _choice(group, "--sampler", SAMPLERS, default.sampler, order)
    ramp = "guidance over the steps: rising from 0, or the same at all"
    _choice(group, "--cfg_schedule", GUIDANCE_SCHEDULES, default.guidance_schedule, ramp)
    _flag(group, "--save_steps", "also write the decoding of the first images, step by step")


def _add_editing(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "editing (--edit; a token is made anew if its cell overlaps the marked pixels)"
    )
    source = "image to edit: a file, or <dataset>:<index> for one of the validation split"
    _option(group, "--init_image", text, None, "IMAGE", source)
    box = "rectangle to make anew, in pixels of the model's images; may be repeated"
    group.add_argument(
        "--mask_box", type=box_of, action=_Repeatable, metavar="X0,Y0,X1,Y1", help=box
    )
    picture = "image whose white parts are made anew; brought to the size of the model's images"
    _option(group, "--mask_image", text, None, "FILE", picture)
    sides = "shift the image and make the room at left, right, top or bottom anew, in pixels"
    group.add_argument(
        "--outpaint", type=margin, nargs="+", action=_Repeatable, metavar="SIDE=PIXELS", help=sides
    )
    _option(group, "--mask_grow", whole_number, 0, "TOKENS", "make as many more to every side anew")
    _flag(group, "--no_composite", "keep the tokenizer's rendering of the known pixels too")


def _add_measuring(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("measuring (--evaluate, --sweep)")
    images = "measure these instead of samples: a folder of images, or an .npz with arr_0"
    _option(group, "--images", text, None, "PATH", images)
    group.add_argument(
        "--reference", choices=("train", "validation"), metavar="SPLIT",
        help="real images to compare with: train, validation [train; of tokenizers validation]",
    )  # fmt: skip
    net = (
        "your own feature extractor, TorchScript: uint8 (B, C, H, W) -> features (B, D) or "
        "(features, logits); runs the code in that file"
    )
    _option(group, "--feature_net", text, None, "FILE", net)
    inception = "weights-inception-2015-12-05-6726825d.pth, for machines without a network"
    _option(group, "--inception_weights", text, None, "FILE", inception)


def _add_run(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("run")
    _option(group, "--output_dir", text, "runs", "DIR", "where runs are")
    _option(
        group, "--run_name", plain_name, None, "NAME", "folder of this run [the dataset's name]"
    )
    _option(group, "--seed", whole_number, TrainingConfig.seed, "N", "seed of everything random")
    _option(group, "--device", text, "auto", "NAME", "auto, cpu, cuda, cuda:<i> or mps")
    precision = "of matrix products; auto is bf16 where the hardware has it"
    _choice(group, "--precision", ("auto", "fp32", "bf16"), "auto", precision)
    compiled = "torch.compile for all networks: a minute at the start, then faster on GPUs"
    _flag(group, "--compile", compiled)
    _flag(group, "--deterministic", "equal bits on CUDA too, at some cost in speed")
    _flag(group, "--no_wandb", "do not use Weights & Biases")


Group = argparse._ArgumentGroup


def _option(
    group: Group, name: str, kind: Callable[[str], Any], default: Any, unit: str, text: str
) -> None:
    group.add_argument(name, type=kind, default=default, metavar=unit, help=text)


def _list(
    group: Group, name: str, kind: Callable[[str], Any], default: Any, unit: str, text: str
) -> None:
    shown = None if default is None else list(default)
    group.add_argument(
        name, type=kind, default=shown, metavar=unit, help=text, nargs="+", action=_FlatList
    )


def _choice(group: Group, name: str, choices: Collection[str], default: str, text: str) -> None:
    text = f"{text}: {', '.join(choices)}"
    group.add_argument(name, choices=list(choices), default=default, metavar="NAME", help=text)


def _flag(group: Group, name: str, text: str) -> None:
    group.add_argument(name, action="store_true", help=text)


def _number(
    text: str, kind: Callable[[str], Any], accepts: Callable[[Any], bool], need: str
) -> Any:
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not -LARGEST <= value <= LARGEST or not accepts(value):
        if value is not None and accepts(value):
            need += f", no larger than {LARGEST}"
        raise argparse.ArgumentTypeError(f"needs {need}, got {text[:40]!r}")
    return value


def positive_int(text: str) -> int:
    """A whole number from 1."""
    return _number(text, int, lambda v: v >= 1, "a whole number of at least 1")


def whole_number(text: str) -> int:
    """A whole number from 0."""
    return _number(text, int, lambda v: v >= 0, "a whole number of at least 0")


def any_whole_number(text: str) -> int:
    """A whole number, negative ones too."""
    return _number(text, int, lambda v: True, "a whole number")


def image_side(text: str) -> int:
    """Pixels, up to what a slip of the finger would exceed."""
    return _number(text, int, lambda v: 1 <= v <= MAX_SIDE, f"pixels, 1 to {MAX_SIDE}")


def sample_count(text: str) -> int:
    """A number of images of one sampling."""
    return _number(text, int, lambda v: 1 <= v <= MAX_SAMPLES, f"a number from 1 to {MAX_SAMPLES}")


def image_index(text: str) -> int:
    """The number of an image in a sampling without end."""
    return _number(text, int, lambda v: v >= 0, "a number from 0 to 2^53")


def text(value: str) -> str:
    """Any text but an empty one, which an unset variable of the shell leaves."""
    if not value.strip():
        raise argparse.ArgumentTypeError("is empty; leave the option out")
    return value


def plain_name(value: str) -> str:
    """The name of a folder without a path, and not that of the token cache."""
    if value in ("", ".", "..", "tokens") or "/" in value or len(value) > 200:
        raise argparse.ArgumentTypeError(f"needs a folder's name without a path, got {value!r}")
    return value


def positive(text: str) -> float:
    """A number above 0."""
    return _number(text, float, lambda v: v > 0, "a number above 0")


def non_negative(text: str) -> float:
    """A number from 0."""
    return _number(text, float, lambda v: v >= 0, "a number of at least 0")


def strength(text: str) -> float:
    """Of guidance or noise: a number from 0."""
    need = f"a number from 0 to {STRONGEST:g}"
    return _number(text, float, lambda v: 0 <= v <= STRONGEST, need)


def scale(text: str) -> float:
    """A factor."""
    need = f"a number above 0, at most {STRONGEST:g}"
    return _number(text, float, lambda v: 0 < v <= STRONGEST, need)


def probability(text: str) -> float:
    """A number in [0, 1]."""
    return _number(text, float, lambda v: 0 <= v <= 1, "a number from 0 to 1")


def rate(text: str) -> float:
    """A number in [0, 1)."""
    return _number(text, float, lambda v: 0 <= v < 1, "a number from 0 to below 1")


def int_list(text: str) -> list[int]:
    """One or several whole numbers above 0: `1`, `1,2,2` or `[1, 2, 2]`."""
    return [positive_int(part) for part in _parts(text)]


def beta_list(text: str) -> list[float]:
    """One or several numbers in [0, 1)."""
    return [rate(part) for part in _parts(text)]


def box_of(text: str) -> tuple[int, ...]:
    """Four whole numbers, the corners of a rectangle."""
    parts = [whole_number(part) for part in _parts(text)]
    if len(parts) != 4:
        raise argparse.ArgumentTypeError(f"needs x0,y0,x1,y1, got {text!r}")
    return tuple(parts)


def margin(text: str) -> tuple[str, int]:
    """A side of an image and a width, as in `left=8`."""
    side, _, pixels = text.partition("=")
    if side not in SIDES:
        raise argparse.ArgumentTypeError(f"needs {', '.join(SIDES)}=PIXELS, got {text!r}")
    return side, positive_int(pixels)


def _parts(text: str) -> list[str]:
    return text.strip().removeprefix("[").removesuffix("]").replace(",", " ").split()


def _folded(name: str) -> str:
    """An option's name with its inner dashes and underscores alike."""
    return "--" + name[2:].replace("-", "_") if name.startswith("--") else name


class _FlatList(argparse.Action):
    """Collects `1 2 2`, `1,2,2` and `[1,2,2]` into one list."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, [item for part in values for item in part])


class _Repeatable(argparse.Action):
    """Collects the values of an option that stands on the command line several times."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        earlier = getattr(namespace, self.dest)
        new = values if self.nargs else [values]
        setattr(namespace, self.dest, [*earlier, *new] if type(earlier) is list else new)


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Adds each option's default to its help where there is one to speak of."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        plain_flag = action.nargs == 0 or action.default in (None, argparse.SUPPRESS)
        return text if plain_flag else f"{text} [%(default)s]"


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        known = [name for action in self._actions for name in action.option_strings]
        if message.startswith("unrecognized arguments: --"):
            wrong = message.split()[2].partition("=")[0]
            close = difflib.get_close_matches(_folded(wrong), known, n=2)
            if close:
                message = f"unknown option {wrong}; did you mean {' or '.join(close)}?"
        self.exit(2, f"{self.prog}: error: {message} (--help lists every option)\n")

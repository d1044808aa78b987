"""The options of the command line: one row (an Option) says everything about one option.

The parser, the help, the configs, the warning "no effect here", the rules of --resume and
docs/options.md are made from these rows. To add an option, add a row. If it fills a field of a
config, its default is that of the field. This file does not import torch, so that --help and error
messages appear at once.
"""

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from commands import kinds
from data.datasets import DATASETS
from metrics.better import BETTER
from models.maskgit.config import TransformerConfig
from models.sampling import CHOICES, SamplingConfig
from models.schedules import training_schedule
from models.vqgan.config import VQGANConfig
from training.config import (
    OPTIMIZERS,
    UPDATES_PER_EPOCH,
    DistillConfig,
    LoopConfig,
    TrainingConfig,
    VQGANTrainingConfig,
)


class Resume(enum.Enum):
    """What happens to an option when a run is resumed; docs/options.md shows the values."""

    FORGET = ""  # the run does not keep it
    STAGE = "fixed"  # no other value, for the stage whose configs it fills
    RUN = "fixed, all stages"  # no other value, for any stage
    GROW = "may grow"  # no smaller value
    FREE = "may change"  # any value


class Many(enum.Enum):
    """How several values of an option are written."""

    LIST = "one list, written as `1 2`, `1,2` or `[1,2]`"
    WORDS = "several words"
    REPEATED = "the option is repeated"
    WORDS_REPEATED = "several words, and the option may be repeated"


@dataclass(frozen=True)
class Fill:
    """A field of a config that an option fills.

    Attributes:
        config: the config dataclass.
        field: name of the field.
        convert: turns the option's value into the field's.
    """

    config: type
    field: str
    convert: Callable[[Any], Any] = lambda value: value


OF_FIELD = object()
"""As `Option.default`: take the default of the field that the option fills."""


@dataclass(frozen=True)
class Option:
    """One row of the table.

    Attributes:
        spelling: the option as help shows it, without the two dashes.
        kind: turns a text into a value (commands/kinds.py); None for a switch.
        unit: what help calls a value, in one word.
        help: what the option does, in one line.
        fills: the fields of configs that it fills.
        default: the value without the option; see `default_value`.
        topics: words that say in which modes it has an effect: in those that share one (see
            `Mode.topics`), in all modes if empty.
        resume: what happens to it when a run is resumed.
        choices: the values that it accepts; None accepts any.
        many: how several values are written; None if it takes one value.
        length: how many values a list must have; None for any number.
        bare: the value if the option is written without one; None if it needs one.
    """

    spelling: str
    kind: Callable[[str], Any] | None
    unit: str
    help: str
    fills: tuple[Fill, ...] = ()
    default: Any = OF_FIELD
    topics: frozenset[str] = frozenset()
    resume: Resume = Resume.FORGET
    choices: tuple[str, ...] | None = None
    many: Many | None = None
    length: int | None = None
    bare: str | None = None

    @property
    def name(self) -> str:
        """The spelling with underscores, as in `CommandLine.values`."""
        return self.spelling.replace("-", "_")

    @property
    def flag(self) -> str:
        """The option as the user writes it."""
        return f"--{self.spelling}"

    @property
    def default_value(self) -> Any:
        """The value without the option; tuples of a config become lists, as the parser makes."""
        if self.default is not OF_FIELD:
            return self.default
        if not self.fills:
            return False if self.kind is None else None
        value = getattr(self.fills[0].config, self.fills[0].field)
        return list(value) if isinstance(value, tuple) else value

    @property
    def is_path(self) -> bool:
        """Whether the value is the path of a file or folder."""
        return self.kind is kinds.path


@dataclass(frozen=True)
class Group:
    """Options under one title in help and in docs/options.md.

    Attributes:
        title: the title.
        options: the options in the order in which they are shown.
    """

    title: str
    options: tuple[Option, ...] = field(repr=False)


def _topics(text: str) -> frozenset[str]:
    """Split a text into words."""
    return frozenset(text.split())


AUTO = "auto"  # a value of --device and --precision
GENERATE, PLAN = _topics("generating"), _topics("generating planning")
STAGES = _topics("stage1 stage2 distilling")
BEST = "best"  # a value of --settings


def _data() -> Iterator[Option]:
    """Yield the options that say what images there are."""
    yield Option(
        "dataset", str, "NAME", "dataset", default="mnist", resume=Resume.RUN,
        choices=tuple(DATASETS),
    )  # fmt: skip
    yield Option(
        "data_dir", kinds.path, "DIR", "folder of the datasets", default="datasets",
        resume=Resume.FREE,
    )  # fmt: skip
    yield Option(
        "cache_dir",
        kinds.path,
        "DIR",
        "folder of the token caches [<output_dir>/tokens]",
        resume=Resume.FREE,
    )
    yield Option(
        "size", kinds.image_size, "PIXELS",
        "height and width of the images, as in 64 or 32x64 [the dataset's own]",
        (Fill(VQGANConfig, "image_size"),), default=None, resume=Resume.RUN,
    )  # fmt: skip
    yield Option(
        "n_classes", kinds.positive_int, "N",
        "number of classes; not needed, every dataset has its own (10 for mnist)", default=10,
    )  # fmt: skip
    yield Option(
        "num_workers", kinds.whole_number, "N",
        "extra processes that read images; 0 for none", default=0, resume=Resume.FREE,
    )  # fmt: skip


def _vqgan() -> Iterator[Option]:
    """Yield the options that say which VQ-GAN to use, or what a new one looks like."""

    def shape(name: str, kind: Any, unit: str, text: str, **more: Any) -> Option:
        """Make an option for the field of VQGANConfig with the same name."""
        fills = (Fill(VQGANConfig, name),)
        return Option(name, kind, unit, text, fills, resume=Resume.STAGE, **more)

    text = "family of a new tokenizer; --train_vae makes no others"
    yield Option(
        "tokenizer", str, "NAME", text, default=VQGANConfig.family, topics=_topics("stage1"),
        resume=Resume.STAGE,
    )  # fmt: skip
    yield Option(
        "checkpoint_vae", kinds.path, "FILE",
        "trained VQ-GAN [the run's own, else the one bundled for the dataset]", resume=Resume.FREE,
    )  # fmt: skip
    yield shape("channels", kinds.positive_int, "N", "channels at full resolution")
    yield shape("z_channels", kinds.positive_int, "N", "channels before the codebook")
    text = "channel multipliers, one per resolution"
    yield shape("ch_mult", kinds.int_list, "N", text, many=Many.LIST)
    yield shape("num_res_blocks", kinds.positive_int, "N", "residual blocks per resolution")
    text = "feature maps with attention, by their side in pixels; [] for none"
    yield shape("attn_resolutions", kinds.int_list, "N", text, many=Many.LIST)
    yield shape("dropout", kinds.rate, "P", "dropout in encoder and decoder")
    yield shape("double_z", None, "", "the encoder returns 2 * z_channels channels")
    yield shape("n_embed", kinds.positive_int, "K", "codebook size")
    yield shape("embed_dim", kinds.positive_int, "N", "width of a code")
    text = ".npy file with the numbers of the used codes; tokens count these alone"
    yield shape("remap", kinds.path, "FILE", text)
    text = "the quantiser returns tokens as (B, h, w), not flat"
    yield shape("sane_index_shape", None, "", text)
    text = "channels of images whose channels are labels; they are shown in random colours"
    yield shape("colorize_nlabels", kinds.positive_int, "N", text)


def _vqgan_training() -> Iterator[Option]:
    """Yield the options of stage 1."""

    def learns(
        name: str, field: str, kind: Any, unit: str, text: str, topics: str = "stage1", **more: Any
    ) -> Option:
        """Make an option for a field of VQGANTrainingConfig."""
        fills = (Fill(VQGANTrainingConfig, field),)
        values = {"resume": Resume.STAGE, **more}
        return Option(name, kind, unit, text, fills, topics=_topics(topics), **values)

    yield learns("n_epochs_vae", "epochs", kinds.positive_int, "N", "epochs", resume=Resume.GROW)
    yield learns(
        "batch_size_vae", "batch_size", kinds.positive_int, "N", "images per step",
        "stage1 reconstructing",
    )  # fmt: skip
    yield learns("lr_vae", "lr", kinds.positive, "LR", "peak learning rate")
    text = "epochs of linear warm-up, at most a tenth of the run; cosine decay follows"
    yield learns("warmup_vae", "warmup_epochs", kinds.non_negative, "EPOCHS", text)
    text = "betas of Adam, two numbers"
    yield learns("betas_vae", "betas", kinds.beta_list, "B", text, many=Many.LIST, length=2)
    text = "first step with the discriminator"
    yield learns("disc_start", "disc_start", kinds.whole_number, "STEP", text)
    text = "weight of the adversarial loss; 0 trains without a discriminator"
    yield learns("disc_weight", "disc_weight", kinds.non_negative, "W", text)
    text = "weight of the codebook's loss"
    yield learns("codebook_weight", "codebook_weight", kinds.non_negative, "W", text)
    text = "weight of the perceptual loss; 0 needs no VGG weights"
    yield learns("perceptual_weight", "perceptual_weight", kinds.non_negative, "W", text)
    yield learns(
        "perceptual_vgg", "perceptual_vgg", kinds.path, "FILE",
        "torchvision's vgg16-397923af.pth, if it cannot be downloaded", "stage1 evaluating",
        resume=Resume.FREE,
    )  # fmt: skip


def _transformer() -> Iterator[Option]:
    """Yield the options that shape a new transformer."""

    def shape(name: str, field: str, kind: Any, unit: str, text: str) -> Option:
        """Make an option for a field of TransformerConfig, and of any family that has it."""
        fills, topics = (Fill(TransformerConfig, field),), _topics("loading stage2")
        return Option(name, kind, unit, text, fills, topics=topics, resume=Resume.STAGE)

    yield Option(
        "transformer", str, "NAME", "family of a new transformer",
        default=TransformerConfig.family, topics=_topics("stage2"), resume=Resume.STAGE,
    )  # fmt: skip
    text = "width of the token embedding"
    yield shape("embed_dim_t", "embed_dim", kinds.positive_int, "N", text)
    text = "width of the blocks, a multiple of --heads"
    yield shape("hidden_dim", "hidden_dim", kinds.positive_int, "N", text)
    yield shape("heads", "heads", kinds.positive_int, "N", "attention heads")
    yield shape("depth", "depth", kinds.positive_int, "N", "number of blocks")
    yield shape("mlp_dim", "mlp_dim", kinds.positive_int, "N", "width of the MLPs")
    yield shape("dropout_t", "dropout", kinds.rate, "P", "dropout in the transformer")


def _training() -> Iterator[Option]:
    """Yield the options of --train, and those of every training."""

    def learns(
        name: str, field: str, kind: Any, unit: str, text: str, topics: str = "stage2", **more: Any
    ) -> Option:
        """Make an option for a field of TrainingConfig and, by its topics, of the other stages'."""
        fills: tuple[Fill, ...] = (Fill(TrainingConfig, field),)
        if "stage1" in topics:
            fills = (*fills, Fill(VQGANTrainingConfig, field))
        if "distilling" in topics:
            fills = (*fills, Fill(DistillConfig, field))
        values = {"resume": Resume.STAGE, **more}
        return Option(name, kind, unit, text, fills, topics=_topics(topics), **values)

    def saves(name: str, field: str, kind: Any, unit: str, text: str) -> Option:
        """Make an option for a field of LoopConfig."""
        fills = (Fill(LoopConfig, field),)
        return Option(name, kind, unit, text, fills, topics=STAGES, resume=Resume.FREE)

    yield learns("n_epochs", "epochs", kinds.positive_int, "N", "epochs", resume=Resume.GROW)
    text = "images per step over all processes, and images sampled at once"
    yield learns("batch_size", "batch_size", kinds.positive_int, "N", text, "stage2 generating")
    text = "optimiser; muon trains the weights of linear layers, and AdamW the others"
    yield learns("optimizer", "optimizer", str, "NAME", text, choices=OPTIMIZERS)
    yield learns("lr", "lr", kinds.positive, "LR", "peak learning rate")
    text = "epochs of linear warm-up, at most a tenth of the run; cosine decay follows"
    yield learns("warmup", "warmup_epochs", kinds.whole_number, "EPOCHS", text)
    text = "betas of AdamW, two numbers"
    yield learns("betas", "betas", kinds.beta_list, "B", text, many=Many.LIST, length=2)
    text = "weight decay, on the weights of linear layers"
    yield learns("weight_decay", "weight_decay", kinds.non_negative, "W", text)
    text = "share of images trained without their class, for guidance; 0 leaves no guidance"
    yield learns("drop-label", "label_drop", kinds.rate, "P", text)
    text = "label smoothing of the cross-entropy"
    yield learns("label_smoothing", "label_smoothing", kinds.rate, "P", text)
    text = "largest gradient norm; 0 for no clipping"
    yield learns("grad_clip", "grad_clip", kinds.non_negative, "NORM", text, "stage2 distilling")
    yield learns(
        "grad_accum", "grad_accum", kinds.positive_int, "N",
        "compute a batch in N parts, to save memory, both stages", "stage1 stage2",
        resume=Resume.FREE,
    )  # fmt: skip
    text = "decay of the averaged weights, in every training; 0 for none"
    yield learns("ema_decay", "ema_decay", kinds.rate, "D", text, "stage1 stage2 distilling")
    text = "epochs between two sample grids and checkpoints, in every training"
    yield saves("sample_and_save_freq", "save_every_epochs", kinds.positive_int, "EPOCHS", text)
    text = "most minutes between two saved states of a run, in every training"
    yield saves("save_every_minutes", "save_every_minutes", kinds.positive, "MIN", text)
    text = "also keep the last N checkpoints, with their step in the name, in every training"
    yield saves("keep_checkpoints", "keep_checkpoints", kinds.whole_number, "N", text)
    text = (
        "also keep the checkpoint of the lowest validation loss (<name>_best.pt), in every training"
    )
    yield saves("keep_best_loss", "keep_best_loss", None, "", text)
    text = "continue the run from its last saved state, if there is one"
    yield Option("resume", None, "", text, topics=STAGES)


def _distilling() -> Iterator[Option]:
    """Yield the options of --distill."""

    def learns(name: str, field: str, kind: Any, unit: str, text: str, **more: Any) -> Option:
        """Make an option for a field of DistillConfig."""
        fills, topics = (Fill(DistillConfig, field),), _topics("distilling")
        values = {"resume": Resume.STAGE, **more}
        return Option(name, kind, unit, text, fills, topics=topics, **values)

    text = f"epochs of {UPDATES_PER_EPOCH} steps of the optimisers"
    yield learns(
        "n_epochs_distill", "epochs", kinds.positive_int, "N", text, resume=Resume.GROW
    )  # fmt: skip
    yield learns("batch_size_distill", "batch_size", kinds.positive_int, "N", "images per step")
    yield learns("lr_distill", "lr", kinds.positive, "LR", "peak learning rate of the student")
    text = "peak learning rate of the auxiliary model, which has to follow the student"
    yield learns("lr_auxiliary", "auxiliary_lr", kinds.positive, "LR", text)
    text = "guidance of the teacher, as --cfg_w; the student needs none then"
    yield learns("teacher_cfg_w", "teacher_guidance", kinds.strength, "W", text)
    text = "factor on the teacher's logits, as --sm_temp"
    yield learns("teacher_sm_temp", "teacher_logit_scale", kinds.scale, "S", text)


def _images() -> Iterator[Option]:
    """Yield the options that say which model makes which images."""
    yield Option(
        "checkpoint", kinds.path, "FILE", "trained model; the teacher of --distill [the run's own]",
        topics=_topics("loading"),
    )  # fmt: skip
    yield Option(
        "num_samples", kinds.sample_count, "N",
        "images to make; without it one per label of --labels, 50000 for --evaluate, 1000 for each "
        "row of --sweep",
        default=16, topics=GENERATE, resume=Resume.FREE,
    )  # fmt: skip
    text = "classes to make in turn: numbers, names, ranges (0-9), none; 3x8 is 3 eight times [all]"
    yield Option("labels", str, "C", text, topics=GENERATE, resume=Resume.FREE, many=Many.WORDS)
    yield Option(
        "first_image", kinds.image_index, "I",
        "index of the first image; an image depends on its class and index, not on the others",
        default=0, topics=GENERATE,
    )  # fmt: skip


def _sampling() -> Iterator[Option]:
    """Yield the options that say how images are decoded."""

    def decodes(name: str, field: str, kind: Any, unit: str, text: str, **more: Any) -> Option:
        """Make an option for a field of SamplingConfig."""
        return Option(
            name, kind, unit, text, (Fill(SamplingConfig, field),), topics=PLAN, resume=Resume.FREE,
            choices=CHOICES.get(field), **more,
        )  # fmt: skip

    text = "decoding steps, at most one per token"
    yield decodes("step", "num_steps", kinds.positive_int, "T", text)
    yield Option(
        "sched_mode", str, "NAME",
        "mask schedule of training and sampling; -cumulative is the paper's plan, in sampling only",
        (Fill(TrainingConfig, "schedule", training_schedule), Fill(SamplingConfig, "schedule")),
        topics=_topics("stage2 generating planning"), resume=Resume.STAGE,
        choices=CHOICES["schedule"],
    )  # fmt: skip
    text = "largest guidance of all steps: (1 + W) * class - W * no class"
    yield decodes("cfg_w", "guidance", kinds.strength, "W", text)
    text = "Gumbel noise on the confidence, falling to 0 at the last step (confidence, moment)"
    yield decodes("r_temp", "choice_temperature", kinds.strength, "T", text)
    text = "factor on the logits before the softmax; above 1 sharpens"
    yield decodes("sm_temp", "logit_scale", kinds.scale, "S", text)
    text = "token at hidden positions at the start; negative: random ones [none: the mask token]"
    yield decodes("mask-value", "start_token", kinds.token_or_none, "ID", text)
    text = "share of positions that begin with a token drawn from the empty image's prediction"
    yield decodes("start_share", "start_share", kinds.probability, "P", text)
    text = "which hidden positions are revealed first"
    yield decodes("sampler", "sampler", str, "NAME", text)
    text = "guidance over the steps: rising from 0; the same; on inside --cfg_interval; rising late"
    yield decodes("cfg_schedule", "guidance_schedule", str, "NAME", text)
    text = "shares of hidden tokens between which --cfg_schedule interval guides, two numbers"
    yield decodes(
        "cfg_interval", "guidance_interval", kinds.share_list, "SHARE", text,
        many=Many.LIST, length=2,
    )  # fmt: skip
    yield Option(
        "settings", str, "NAME",
        "what options that are not given take: their defaults, or the best settings that --sweep "
        "--keep_best wrote into the checkpoint",
        default="defaults", topics=_topics("settling"), choices=("defaults", BEST),
    )  # fmt: skip
    text = "also write pictures of the first images at every decoding step"
    yield Option("save_steps", None, "", text, topics=_topics("filming"))


def _editing() -> Iterator[Option]:
    """Yield the options that say what is made anew."""

    def edits(
        name: str, kind: Any, unit: str, text: str, topics: str = "editing", **more: Any
    ) -> Option:
        """Make an option of --edit."""
        return Option(name, kind, unit, text, topics=_topics(topics), **more)

    text = "image to edit: a file, or <dataset>:<index> for an image of the validation split"
    yield edits("init_image", kinds.path, "IMAGE", text)
    text = "rectangle to make anew, in pixels of the model's images; may be repeated"
    yield edits("mask_box", kinds.box_of, "X0,Y0,X1,Y1", text, many=Many.REPEATED)
    text = "image whose white parts, or transparent hole, are regenerated; resized like the image"
    yield edits("mask_image", kinds.path, "FILE", text)
    text = "brightness from which on --mask_image marks, for masks that are not black and white"
    yield edits("mask_threshold", kinds.brightness, "LEVEL", text)
    text = "shift the image and make the free margin anew: left, right, top or bottom, in pixels"
    yield edits("outpaint", kinds.margin, "SIDE=PIXELS", text, many=Many.WORDS_REPEATED)
    text = "grow the region to make anew by so many tokens on every side"
    yield edits("mask_grow", kinds.whole_number, "TOKENS", text, "editing paging", default=0)
    text = "do not put the original pixels back outside the region"
    yield edits("no_composite", None, "", text, "editing paging")


def _measuring() -> Iterator[Option]:
    """Yield the options that say what is measured, and with which networks."""
    topics = _topics("measuring")
    yield Option(
        "images", kinds.path, "PATH",
        "score these instead of samples: a folder of images, an .npz file with arr_0, or an .npy",
        topics=_topics("evaluating"),
    )  # fmt: skip
    yield Option(
        "reference", str, "SPLIT",
        "real images to compare with: train, validation [train; for a tokenizer validation]",
        default=None, topics=topics, choices=("train", "validation"),
    )  # fmt: skip
    yield Option(
        "feature_net", kinds.path, "FILE",
        "your own feature extractor, TorchScript: uint8 (B, C, H, W) -> features (B, D) or "
        "(features, logits); runs the code in that file",
        topics=topics,
    )  # fmt: skip
    yield Option(
        "inception_weights", kinds.path, "FILE",
        "weights-inception-2015-12-05-6726825d.pth, if it cannot be downloaded", topics=topics,
    )  # fmt: skip

    yield Option(
        "keep_best", str, "METRIC",
        "write the best settings of the sweep into the checkpoint, for --settings best: those with "
        f"the lowest fid, or by another score ({', '.join(BETTER)})",
        topics=_topics("sweeping"), choices=tuple(BETTER), bare="fid",
    )  # fmt: skip


def _run() -> Iterator[Option]:
    """Yield the options of all runs."""
    yield Option("output_dir", kinds.path, "DIR", "folder of all runs", default="runs")
    text = "folder of this run [the dataset's name]"
    yield Option("run_name", kinds.plain_name, "NAME", text)
    yield Option(
        "seed", kinds.whole_number, "N", "seed of all random numbers",
        (
            Fill(TrainingConfig, "seed"), Fill(VQGANTrainingConfig, "seed"),
            Fill(DistillConfig, "seed"),
        ),
        topics=_topics("stage1 stage2 distilling generating"), resume=Resume.STAGE,
    )  # fmt: skip
    text = "auto, cpu, cuda, cuda:<i> or mps"
    yield Option("device", kinds.text, "NAME", text, default=AUTO)
    yield Option(
        "precision", str, "NAME", "dtype of matrix products; auto: bf16 where it is the faster one",
        default=AUTO, resume=Resume.RUN, choices=(AUTO, "fp32", "bf16"),
    )  # fmt: skip
    text = "run all networks through torch.compile: a slow start, then faster on GPUs"
    yield Option("compile", None, "", text)
    text = "bit-equal results on CUDA too, somewhat slower"
    yield Option("deterministic", None, "", text, resume=Resume.FREE)
    yield Option("no_wandb", None, "", "do not use Weights & Biases", resume=Resume.FREE)


def _paging() -> Iterator[Option]:
    """Yield the options of --page."""
    text = "where the page listens; another than this machine's own needs the token in its address"
    yield Option("host", kinds.text, "HOST", text, default="127.0.0.1", topics=_topics("paging"))


DRY_RUN = Option("dry_run", None, "", "print what the other modes would do, and stop")
GROUPS = (
    Group("data", tuple(_data())),
    Group(
        f"tokenizer (for a new {VQGANConfig.family}; a checkpoint has its own values)",
        tuple(_vqgan()),
    ),
    Group("VQ-GAN training (--train_vae)", tuple(_vqgan_training())),
    Group(
        f"transformer (for a new {TransformerConfig.family}; a checkpoint has its own values)",
        tuple(_transformer()),
    ),
    Group("training (--train)", tuple(_training())),
    Group("distillation (--distill)", tuple(_distilling())),
    Group("sampling (--sample, and the grids of --train)", (*_images(), *_sampling())),
    Group(
        "editing (--edit; a token is made anew if its cell overlaps the marked pixels)",
        tuple(_editing()),
    ),
    Group("measuring (--evaluate, --sweep)", tuple(_measuring())),
    Group("page (--page)", tuple(_paging())),
    Group("run", tuple(_run())),
)
OPTIONS: dict[str, Option] = {
    option.name: option for group in GROUPS for option in group.options
} | {DRY_RUN.name: DRY_RUN}


def documentation() -> str:
    """Write all options as the Markdown tables of docs/options.md."""
    lines = []
    for group in GROUPS:
        lines += [f"## {group.title[0].upper()}{group.title[1:]}", ""]
        lines += ["| option | | default | with --resume |", "| --- | --- | --- | --- |"]
        for option in group.options:
            unit = f"[{option.unit}]" if option.bare is not None else option.unit
            spelled = f"`{option.flag} {unit}`".replace(" `", "`")
            has_none = option.default_value is None or option.default_value is False
            default = "" if has_none else f"`{_written(option.default_value)}`"
            text = option.help.replace("|", "\\|")
            if option.choices and option.default_value is not None:
                text += ": " + ", ".join(f"`{choice}`" for choice in option.choices)
            lines.append(f"| {spelled} | {text} | {default} | {option.resume.value} |")
        lines.append("")
    return "\n".join(lines)


def _written(value: Any) -> str:
    """Write a value as on the command line."""
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)

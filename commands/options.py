"""The options of the command line: one row (an Option) says everything about one option.

The parser, the help, the configs, the warning "no effect here", the rules of --resume and
docs/options.md are made from these rows. To add an option, add a row. If it fills a field of a
config, its default is that of the field. This file does not import torch, so that --help and error
messages appear at once.
"""

import enum
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from commands import kinds
from data.datasets import DATASETS
from data.spec import FITS, RESIZES, VIEWS, Preparation
from metrics.better import BETTER, FEATURES, PROTOCOLS
from models.maskbit.config import BitTokenizerConfig
from models.maskgit.config import TransformerConfig
from models.sampling import CHOICES, SamplingConfig
from models.vqgan.config import VQGANConfig
from training.config import (
    OPTIMIZERS,
    PUBLISHED,
    UPDATES_PER_EPOCH,
    DistillConfig,
    LoopConfig,
    TrainingConfig,
    VQGANTrainingConfig,
    training_schedule,
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
    """A field of a config that an option fills. `convert` turns the option's value into its own."""

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
        unit: name of a value in --help, in one word; empty for a switch.
        default: the value without the option; see `default_value`.
        modes: names of the modes in which it has an effect.
        compared: whether modes that open trained networks compare it with them.
        choices: the values that it accepts; None accepts any.
        many: how several values are written; None if it takes one value.
        length: how many values a list must have; None for any number.
        bare: the value if the option is written without one; None if it needs one.
    """

    spelling: str
    kind: Callable[[str], Any] | None
    unit: str
    help: str
    modes: frozenset[str]
    fills: tuple[Fill, ...] = ()
    default: Any = OF_FIELD
    compared: bool = False
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
    def usage(self) -> str:
        """The option with the name of its value, in brackets if the value may be left out."""
        unit = f"[{self.unit}]" if self.bare is not None else self.unit
        return f"{self.flag} {unit}".rstrip()

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
        return self.kind in (kinds.path, kinds.checkpoint)


@dataclass(frozen=True)
class Group:
    """Options under one title in help and in docs/options.md.

    Attributes:
        home: the mode whose help shows these options, and to which the help of a training refers,
            because it uses them only for sample grids and scores. None shows them in every help.
    """

    title: str
    options: tuple[Option, ...] = field(repr=False)
    home: str | None = None


def _modes(text: str) -> frozenset[str]:
    """Split a text into the names of modes."""
    return frozenset(text.split())


AUTO = "auto"  # a value of --device and --precision
BEST = "best"  # a value of --settings
TRAINING = _modes("train_vae train distill")
GENERATING = _modes("train sample edit evaluate sweep page")  # --train makes its sample grids
OPENING = _modes("distill show_plan sample edit evaluate sweep export page")  # a trained model
READING = _modes("train_vae reconstruct train edit evaluate sweep page")  # images of a dataset
LOOKING = READING | {"look"}
COMPUTING = READING | _modes("distill sample")
WARMUP = "epochs of linear warm-up, at most a tenth of the run; cosine decay follows"


def _data() -> Iterator[Option]:
    """Yield the options about the images of the dataset."""

    def prepares(name: str, kind: Any, unit: str, text: str, modes: Any, **more: Any) -> Option:
        """Make an option for the field of Preparation with the same name."""
        fills = (Fill(Preparation, name),)
        return Option(name, kind, unit, text, modes, fills, resume=Resume.RUN, **more)

    yield Option(
        "dataset", str, "NAME", "dataset", LOOKING | OPENING | {"download_only", "sample"},
        default="mnist", resume=Resume.RUN, choices=tuple(DATASETS),
    )  # fmt: skip
    yield Option(
        "data_dir", kinds.path, "DIR", "folder of the datasets", LOOKING | {"download_only"},
        default="datasets", resume=Resume.FREE,
    )  # fmt: skip
    shown = LOOKING - {"edit", "page"}
    text = "crop takes the center of an image, pad adds bars so that all of it is seen"
    yield prepares("fit", str, "HOW", text, shown, choices=FITS)
    text = "filter that resizes images, bilinear, ADM's or bicubic"
    yield prepares("resize", str, "RULE", text, shown, choices=tuple(RESIZES))
    text = "color behind transparent parts, and of the bars of --fit pad: a name, or #rrggbb"
    yield prepares("background", kinds.color, "COLOR", text, shown)
    text = "flips of the training images; letters and flags need none [the dataset's own]"
    yield prepares("flips", str, "HOW", text, _modes("train_vae train"), choices=tuple(VIEWS))
    text = "also train on N changed copies of every image: shifted, cropped, in other colors"
    yield prepares("augment", kinds.whole_number, "N", text, _modes("train_vae train"))
    text = "folder of the token caches [<output_dir>/tokens]"
    yield Option("cache_dir", kinds.path, "DIR", text, LOOKING, resume=Resume.FREE)
    yield Option(
        "size", kinds.image_size, "PIXELS",
        "height and width of the images, as in 64 or 32x64 [the dataset's own]",
        LOOKING | {"download_only"}, (Fill(VQGANConfig, "image_size"),), default=None,
        compared=True, resume=Resume.RUN,
    )  # fmt: skip
    yield Option(
        "n_classes", kinds.positive_int, "N",
        "number of classes; every dataset has its own, so this only checks it",
        _modes("train"), default=10, compared=True,
    )  # fmt: skip
    yield Option(
        "num_workers", kinds.whole_number, "N", "extra processes that read images; 0 for none",
        shown, default=0, resume=Resume.FREE,
    )  # fmt: skip
    yield Option(
        "checkpoint_vae", kinds.checkpoint, "FILE",
        "trained VQ-GAN, as in --checkpoint [the run's own, else the one bundled for the dataset]",
        OPENING | _modes("reconstruct train"), resume=Resume.FREE,
    )  # fmt: skip
    yield Option(
        "tokenizer", str, "NAME",
        "family of a new tokenizer, or of --checkpoint_vae where its contents do not tell",
        OPENING | _modes("train_vae reconstruct train"), default=VQGANConfig.family,
        resume=Resume.STAGE,
    )  # fmt: skip
    yield Option(
        "splits", kinds.positive_int, "N",
        "tokens per cell, which share its bits (family maskbit)", _modes("train"),
        (Fill(BitTokenizerConfig, "splits"),), compared=True, resume=Resume.STAGE,
    )  # fmt: skip


def _tokenizer() -> Iterator[Option]:
    """Yield the options that shape a new tokenizer."""

    def shape(name: str, kind: Any, unit: str, text: str, **more: Any) -> Option:
        """Make an option for the field of VQGANConfig with the same name."""
        return Option(
            name, kind, unit, text, _modes("train_vae"), (Fill(VQGANConfig, name),),
            compared=True, resume=Resume.STAGE, **more,
        )  # fmt: skip

    yield shape("channels", kinds.positive_int, "N", "channels at full resolution")
    yield shape("z_channels", kinds.positive_int, "N", "channels before the codebook")
    text = "channel multipliers, one per resolution"
    yield shape("ch_mult", kinds.int_list, "N", text, many=Many.LIST)
    yield shape("num_res_blocks", kinds.positive_int, "N", "residual blocks per resolution")
    text = "groups of each normalization; few channels in a group lose the colors of flat images"
    yield shape("norm_groups", kinds.positive_int, "N", text)
    text = "feature maps with attention, by their side in pixels; [] for none"
    yield shape("attn_resolutions", kinds.int_list, "N", text, many=Many.LIST)
    yield Option(
        "no_middle_attention", None, "",
        "no attention between the middle blocks; with --attn_resolutions [] any size works",
        _modes("train_vae"), (Fill(VQGANConfig, "middle_attention", operator.not_),),
        default=False, resume=Resume.STAGE,
    )  # fmt: skip
    yield shape("dropout", kinds.rate, "P", "dropout in encoder and decoder")
    yield shape("double_z", None, "", "the encoder returns 2 * z_channels channels")
    yield shape("n_embed", kinds.positive_int, "K", "codebook size")
    yield shape("embed_dim", kinds.positive_int, "N", "width of a code")
    text = ".npy file with the numbers of the used codes; tokens count only these"
    yield shape("remap", kinds.path, "FILE", text)
    text = "the quantizer returns tokens as (B, h, w), not flat"
    yield shape("sane_index_shape", None, "", text)
    text = "channels of images whose channels are labels; they are shown in random colors"
    yield shape("colorize_nlabels", kinds.positive_int, "N", text)


def _tokenizer_training() -> Iterator[Option]:
    """Yield the options of stage 1."""

    def learns(
        name: str,
        field: str,
        kind: Any,
        unit: str,
        text: str,
        modes: str = "train_vae",
        **more: Any,
    ) -> Option:
        """Make an option for a field of VQGANTrainingConfig."""
        fills = (Fill(VQGANTrainingConfig, field),)
        values = {"resume": Resume.STAGE, **more}
        return Option(name, kind, unit, text, _modes(modes), fills, **values)

    yield learns("n_epochs_vae", "epochs", kinds.positive_int, "N", "epochs", resume=Resume.GROW)
    yield learns(
        "batch_size_vae", "batch_size", kinds.positive_int, "N", "images per step",
        "train_vae reconstruct",
    )  # fmt: skip
    text = "muon trains the weights of convolutions, AdamW the others"
    yield learns("optimizer_vae", "optimizer", str, "NAME", text, choices=OPTIMIZERS)
    text = "start with residual blocks that do nothing and convolutions that keep the variance"
    yield learns("linear_start", "linear_start", None, "", text)
    yield learns("lr_vae", "lr", kinds.positive, "LR", "peak learning rate")
    yield learns("warmup_vae", "warmup_epochs", kinds.non_negative, "EPOCHS", WARMUP)
    text = "betas of Adam, two numbers"
    yield learns("betas_vae", "betas", kinds.beta_list, "B", text, many=Many.LIST, length=2)
    text = "first step with the discriminator"
    yield learns("disc_start", "disc_start", kinds.whole_number, "STEP", text)
    text = "weight of the adversarial loss; 0 trains without a discriminator"
    yield learns("disc_weight", "disc_weight", kinds.non_negative, "W", text)
    text = "trained VQ-GAN whose averaged weights the new one starts from"
    yield learns("init_vae", "init", kinds.checkpoint, "FILE", text)
    text = "parameters of the VQ-GAN that are not trained: names with * and commas"
    yield learns("freeze_vae", "freeze", kinds.pattern_list, "PATTERN", text, many=Many.LIST)
    text = "weight of the codebook's loss"
    yield learns("codebook_weight", "codebook_weight", kinds.non_negative, "W", text)
    text = "weight of the color differences (red - green, blue - yellow) in the reconstruction loss"
    yield learns("chroma_weight", "chroma_weight", kinds.non_negative, "W", text)
    text = "weight of the perceptual loss; 0 needs no VGG weights"
    yield learns("perceptual_weight", "perceptual_weight", kinds.non_negative, "W", text)
    yield learns(
        "perceptual_vgg", "perceptual_vgg", kinds.checkpoint, "FILE",
        "torchvision's vgg16-397923af.pth, if it cannot be downloaded", "train_vae evaluate",
        resume=Resume.FREE,
    )  # fmt: skip


def _transformer() -> Iterator[Option]:
    """Yield the options that shape a new transformer."""

    def shape(name: str, field: str, kind: Any, unit: str, text: str) -> Option:
        """Make an option for a field of TransformerConfig, and of any family that has it."""
        return Option(
            name, kind, unit, text, _modes("train"), (Fill(TransformerConfig, field),),
            compared=True, resume=Resume.STAGE,
        )  # fmt: skip

    yield Option(
        "transformer", str, "NAME", "family of a new transformer", _modes("train"),
        default=TransformerConfig.family, resume=Resume.STAGE,
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
        name: str, field: str, kind: Any, unit: str, text: str, modes: Any = ("train",), **more: Any
    ) -> Option:
        """Make an option for a field of TrainingConfig and, by its modes, of the other stages'."""
        others = {"train_vae": VQGANTrainingConfig, "distill": DistillConfig}
        configs = [TrainingConfig, *(others[mode] for mode in others if mode in modes)]
        fills = tuple(Fill(config, field) for config in configs)
        values = {"resume": Resume.STAGE, **more}
        return Option(name, kind, unit, text, frozenset(modes), fills, **values)

    yield learns("n_epochs", "epochs", kinds.positive_int, "N", "epochs", resume=Resume.GROW)
    text = "images per step over all processes, and images sampled at once"
    yield learns("batch_size", "batch_size", kinds.positive_int, "N", text, GENERATING)
    text = "muon trains the weights of linear layers, AdamW the others"
    yield learns("optimizer", "optimizer", str, "NAME", text, choices=OPTIMIZERS)
    yield learns("lr", "lr", kinds.positive, "LR", "peak learning rate")
    yield learns("warmup", "warmup_epochs", kinds.whole_number, "EPOCHS", WARMUP)
    text = "betas of AdamW, two numbers"
    yield learns("betas", "betas", kinds.beta_list, "B", text, many=Many.LIST, length=2)
    text = "weight decay, on the weights of linear layers"
    yield learns("weight_decay", "weight_decay", kinds.non_negative, "W", text)
    yield Option(
        "sched_mode", str, "NAME",
        "mask schedule; -cumulative is the paper's plan, in sampling only",
        GENERATING | {"show_plan"},
        (Fill(TrainingConfig, "schedule", training_schedule), Fill(SamplingConfig, "schedule")),
        resume=Resume.STAGE, choices=CHOICES["schedule"],
    )  # fmt: skip
    text = "share of images trained without their class, for guidance; 0 leaves no guidance"
    yield learns("drop-label", "label_drop", kinds.rate, "P", text)
    modes = _modes("train_vae train")
    text = "trained model whose averaged weights the new one starts from; without --train a VQ-GAN"
    yield Option(
        "init", kinds.checkpoint, "FILE", text, modes, (Fill(TrainingConfig, "init"),),
        resume=Resume.STAGE,
    )  # fmt: skip
    text = "parameters that are not trained: names with * and commas; without --train the VQ-GAN's"
    yield Option(
        "freeze", kinds.pattern_list, "PATTERN", text, modes, (Fill(TrainingConfig, "freeze"),),
        resume=Resume.STAGE, many=Many.LIST,
    )  # fmt: skip
    text = "label smoothing of the cross-entropy"
    yield learns("label_smoothing", "label_smoothing", kinds.rate, "P", text)
    text = "largest gradient norm; 0 for no clipping"
    modes = _modes("train distill")
    yield learns("grad_clip", "grad_clip", kinds.non_negative, "NORM", text, modes)
    text = "compute a batch in N parts, to save memory"
    modes = _modes("train_vae train")
    yield learns(
        "grad_accum", "grad_accum", kinds.positive_int, "N", text, modes, resume=Resume.FREE
    )
    text = "decay of the averaged weights; 0 for none"
    yield learns("ema_decay", "ema_decay", kinds.rate, "D", text, TRAINING)


def _saving() -> Iterator[Option]:
    """Yield the options that say when a training ends and what it writes."""

    def saves(name: str, field: str, kind: Any, unit: str, text: str, **more: Any) -> Option:
        """Make an option for a field of LoopConfig."""
        fills = (Fill(LoopConfig, field),)
        return Option(name, kind, unit, text, TRAINING, fills, resume=Resume.FREE, **more)

    text = "write a sample grid and a checkpoint every EPOCHS epochs"
    yield saves("sample_and_save_freq", "save_every_epochs", kinds.positive_int, "EPOCHS", text)
    text = "also keep the last N checkpoints, with their step in the name"
    yield saves("keep_checkpoints", "keep_checkpoints", kinds.whole_number, "N", text)
    text = "also keep the checkpoint of the lowest validation loss (<name>_best.pt)"
    yield saves("keep_best_loss", "keep_best_loss", None, "", text)
    text = "weights to publish, of the last step or of the lowest validation loss"
    yield saves("publish", "publish", str, "WHICH", text, choices=PUBLISHED)
    text = "end after N epochs without a lower validation loss; 0 never"
    yield saves("early_stop", "early_stop", kinds.whole_number, "N", text)
    text = "score samples every EPOCHS epochs, and keep the checkpoint of the lowest FID; 0: never"
    yield Option("evaluate_every", kinds.whole_number, "EPOCHS", text, _modes("train"), default=0)
    text = "samples for --evaluate_every"
    yield Option("evaluate_samples", kinds.positive_int, "N", text, _modes("train"), default=2000)
    yield Option(
        "minutes", kinds.positive, "MIN",
        "the command ends within this time: the speed of the first steps decides the epochs",
        _modes("train_vae train"), resume=Resume.RUN,
    )  # fmt: skip
    text = "continue the run from its last saved state, if there is one"
    yield Option("resume", None, "", text, TRAINING)
    text = "with --resume: go on with images and classes that were added since (--dataset folder)"
    yield Option("new_images", None, "", text, _modes("train_vae train"))


def _distilling() -> Iterator[Option]:
    """Yield the options of --distill."""

    def learns(name: str, field: str, kind: Any, unit: str, text: str, **more: Any) -> Option:
        """Make an option for a field of DistillConfig."""
        fills, values = (Fill(DistillConfig, field),), {"resume": Resume.STAGE, **more}
        return Option(name, kind, unit, text, _modes("distill"), fills, **values)

    text = f"epochs of {UPDATES_PER_EPOCH} optimizer steps"
    yield learns("n_epochs_distill", "epochs", kinds.positive_int, "N", text, resume=Resume.GROW)
    yield learns("batch_size_distill", "batch_size", kinds.positive_int, "N", "images per step")
    yield learns("lr_distill", "lr", kinds.positive, "LR", "peak learning rate of the student")
    text = "guidance of the teacher, as --cfg_w; the student then needs none"
    yield learns("teacher_cfg_w", "teacher_guidance", kinds.strength, "W", text)


def _images() -> Iterator[Option]:
    """Yield the options that choose the model and the images to make."""
    text = (
        "trained model, the teacher of --distill: a file, the only one in a folder, or "
        "hf:owner/name[/file][@revision] [the run's own]"
    )
    yield Option("checkpoint", kinds.checkpoint, "FILE", text, OPENING | {"reconstruct"})
    yield Option(
        "num_samples", kinds.sample_count, "N",
        "images to make; without it one per label of --labels, 50000 for --evaluate (and all real "
        "ones for its likelihood), 1000 for each row of --sweep",
        GENERATING, default=16, resume=Resume.FREE,
    )  # fmt: skip
    text = "classes to make in turn: numbers, names, ranges (0-9), none; 3x8 is 3 eight times [all]"
    yield Option("labels", str, "C", text, GENERATING, resume=Resume.FREE, many=Many.WORDS)
    yield Option(
        "first_image", kinds.image_index, "I",
        "index of the first image; an image depends on its class and index, not on the others",
        GENERATING, default=0,
    )  # fmt: skip
    yield Option(
        "start_tokens", kinds.path, "FILE",
        "continue all images in the middle of a decoding, where a branch on the page begins",
        _modes("sample edit"),
    )  # fmt: skip


def _sampling() -> Iterator[Option]:
    """Yield the options that say how images are decoded."""

    def decodes(name: str, field: str, kind: Any, unit: str, text: str, **more: Any) -> Option:
        """Make an option for a field of SamplingConfig."""
        return Option(
            name, kind, unit, text, GENERATING | {"show_plan"}, (Fill(SamplingConfig, field),),
            resume=Resume.FREE, choices=CHOICES.get(field), **more,
        )  # fmt: skip

    text = "decoding steps, at most one per token"
    yield decodes("step", "num_steps", kinds.positive_int, "T", text)
    text = "largest guidance of all steps: (1 + W) * class - W * no class"
    yield decodes("cfg_w", "guidance", kinds.strength, "W", text)
    text = "Gumbel noise on the confidence, falling to 0 at the last step; not for halton, random"
    yield decodes("r_temp", "choice_temperature", kinds.strength, "T", text)
    text = "factor on the logits before the softmax; above 1 sharpens"
    yield decodes("sm_temp", "logit_scale", kinds.scale, "S", text)
    text = "another factor on the logits of the first step only; below 1 flattens"
    yield decodes("sm_temp_first", "first_logit_scale", kinds.scale, "S", text)
    text = "each image starts at a random point of the order of --sampler halton: on, off"
    yield decodes("halton_roll", "halton_roll", str, "NAME", text)
    text = "token at hidden positions at the start; negative: random ones [none: the mask token]"
    yield decodes("mask-value", "start_token", kinds.token_or_none, "ID", text)
    text = "which hidden positions are revealed first"
    yield decodes("sampler", "sampler", str, "NAME", text)
    text = "guidance over the steps: rising from 0; the same; on inside --cfg_interval; rising late"
    yield decodes("cfg_schedule", "guidance_schedule", str, "NAME", text)
    text = "shares of hidden tokens between which --cfg_schedule interval guides, two numbers"
    yield decodes(
        "cfg_interval", "guidance_interval", kinds.share_list, "SHARE", text,
        many=Many.LIST, length=2,
    )  # fmt: skip
    text = "how late --cfg_schedule power-cosine rises"
    yield decodes("cfg_power", "guidance_power", kinds.scale, "P", text)
    yield Option(
        "settings", str, "NAME",
        "where options that you leave out get their values: the defaults, or the best settings "
        "that --sweep --keep_best wrote into the checkpoint",
        _modes("show_plan sample edit evaluate sweep"), default="defaults",
        choices=("defaults", BEST),
    )  # fmt: skip
    yield Option(
        "save_steps", str, "VIEW",
        "also write pictures of the first images at every decoding step: with the hidden cells "
        "covered, or as the model imagines the whole image", _modes("sample"),
        default=None, choices=("hidden", "imagined"), bare="hidden",
    )  # fmt: skip


def _editing() -> Iterator[Option]:
    """Yield the options that choose what to regenerate."""

    def edits(
        name: str, kind: Any, unit: str, text: str, modes: str = "edit", **more: Any
    ) -> Option:
        """Make an option of --edit."""
        return Option(name, kind, unit, text, _modes(modes), **more)

    text = "image to edit: a file, or <dataset>:<index> for an image of the validation split"
    yield edits("init_image", kinds.path, "IMAGE", text)
    text = "rectangle to regenerate, in pixels of the model's images; may be repeated"
    yield edits("mask_box", kinds.box_of, "X0,Y0,X1,Y1", text, many=Many.REPEATED)
    text = "image whose white parts, or transparent hole, are regenerated; resized like the image"
    yield edits("mask_image", kinds.path, "FILE", text)
    text = "lowest brightness that --mask_image marks, for masks that are not black and white"
    yield edits("mask_threshold", kinds.brightness, "LEVEL", text)
    text = "shift the image and regenerate the free margin: left, right, top or bottom, in pixels"
    yield edits("outpaint", kinds.margin, "SIDE=PIXELS", text, many=Many.WORDS_REPEATED)
    text = "grow the region to regenerate by this number of tokens on every side"
    yield edits("mask_grow", kinds.whole_number, "TOKENS", text, "edit page", default=0)
    text = "do not put the original pixels back outside the region"
    yield edits("no_composite", None, "", text, "edit page")


def _measuring() -> Iterator[Option]:
    """Yield the options that choose what to measure, and with which networks."""
    modes = _modes("evaluate sweep train")  # in --train with --evaluate_every
    yield Option(
        "images", kinds.path, "PATH",
        "score these instead of samples: a folder of images, an .npz file with arr_0, or an .npy",
        _modes("evaluate"),
    )  # fmt: skip
    yield Option(
        "reference", kinds.path, "SPLIT",
        "real images to compare with: train, validation [train; for a tokenizer validation], or a "
        "file of statistics of ADM, EDM, EDM2, MAR, MaskBit, clean-fid or Halton MaskGIT",
        modes,
    )  # fmt: skip
    yield Option(
        "protocol", str, "NAME",
        "count as the program whose figures yours will stand beside: ADM's evaluator, EDM2, "
        "clean-fid, or this program",
        modes, default="ours", choices=PROTOCOLS,
    )  # fmt: skip
    text = "also write the statistics of the split, for the programs of others: an .npz (ADM), .pkl"
    yield Option("write_reference", kinds.path, "FILE", text, _modes("evaluate"))
    yield Option(
        "feature_net", kinds.checkpoint, "FILE",
        "your own feature extractor, TorchScript: uint8 (B, C, H, W) -> features (B, D) or "
        "(features, logits) or (features, logits, spatial features); runs the code in that file",
        modes,
    )  # fmt: skip
    yield Option(
        "features", str, "KIND",
        "features to compare: Inception's, or DINOv2's for FD_DINOv2, resized as by EDM2 or, with "
        "-pil, as by dgm-eval",
        _modes("evaluate"), default=FEATURES[0], choices=FEATURES,
    )  # fmt: skip
    text = "DINOv2's dinov2_vitl14_pretrain.pth, if it cannot be downloaded"
    yield Option("feature_weights", kinds.checkpoint, "FILE", text, _modes("evaluate"))
    text = "weights-inception-2015-12-05-6726825d.pth, if it cannot be downloaded"
    yield Option("inception_weights", kinds.checkpoint, "FILE", text, modes)
    text = "sample N times, with this and the next seeds: mean and spread of every score"
    yield Option("repeats", kinds.positive_int, "N", text, _modes("evaluate"), default=1)
    text = "also write FID and accuracy of each class alone, as a table and a picture"
    yield Option("per_class", None, "", text, _modes("evaluate"))
    text = "also find the training image nearest to each sample: are the samples copies?"
    yield Option("nearest", None, "", text, _modes("evaluate"))
    yield Option(
        "classify", kinds.whole_number, "N",
        "with --evaluate likelihood: also classify N images, each by its most likely class",
        _modes("evaluate"), default=0,
    )  # fmt: skip
    yield Option(
        "keep_best", str, "METRIC",
        "write the best settings of the sweep into the checkpoint, for --settings best: those with "
        f"the lowest fid, or by another score ({', '.join(BETTER)})",
        _modes("sweep"), choices=tuple(BETTER), bare="fid",
    )  # fmt: skip


MEASURING = tuple(_measuring())


def _run() -> Iterator[Option]:
    """Yield the options of all runs."""
    every_run = COMPUTING | _modes("look show_plan export curves")
    yield Option("output_dir", kinds.path, "DIR", "folder of all runs", every_run, default="runs")
    text = "folder of this run [the dataset's name]"
    yield Option("run_name", kinds.plain_name, "NAME", text, every_run)
    yield Option(
        "seed", kinds.whole_number, "N", "seed of all random numbers", TRAINING | GENERATING,
        (
            Fill(TrainingConfig, "seed"), Fill(VQGANTrainingConfig, "seed"),
            Fill(DistillConfig, "seed"), Fill(Preparation, "seed"),
        ),
        resume=Resume.STAGE,
    )  # fmt: skip
    text = "auto, cpu, cuda, cuda:<i> or mps"
    yield Option("device", kinds.text, "NAME", text, COMPUTING, default=AUTO)
    yield Option(
        "precision", str, "NAME", "dtype of matrix products; auto: bf16 where it is faster",
        COMPUTING, default=AUTO, resume=Resume.RUN, choices=(AUTO, "fp32", "bf16"),
    )  # fmt: skip
    text = "run all networks through torch.compile: a slow start, then faster on GPUs"
    yield Option("compile", None, "", text, COMPUTING - {"distill"})
    text = "bit-equal results on CUDA too, somewhat slower"
    yield Option("deterministic", None, "", text, COMPUTING, resume=Resume.FREE)
    yield Option("no_wandb", None, "", "do not use Weights & Biases", TRAINING, resume=Resume.FREE)
    text = "print what the modes would do, and stop"
    yield Option("dry_run", None, "", text, every_run | {"page", "download_only"})


def _paging() -> Iterator[Option]:
    """Yield the options of --page."""
    text = "where the page listens; any other address requires the token from the printed URL"
    yield Option("host", kinds.text, "HOST", text, _modes("page"), default="127.0.0.1")


GROUPS = (
    Group("data", tuple(_data())),
    Group(
        f"tokenizer (for a new {VQGANConfig.family}; a checkpoint has its own values)",
        tuple(_tokenizer()),
    ),
    Group("tokenizer training (--train_vae)", tuple(_tokenizer_training())),
    Group(
        f"transformer (for a new {TransformerConfig.family}; a checkpoint has its own values)",
        tuple(_transformer()),
    ),
    Group("training (--train)", (*_training(), *_saving())),
    Group("distillation (--distill)", tuple(_distilling())),
    Group("sampling (--sample, and the grids of --train)", (*_images(), *_sampling()), "sample"),
    Group(
        "editing (--edit; a token is regenerated if its cell overlaps the marked pixels)",
        tuple(_editing()),
    ),
    Group("measuring (--evaluate, --sweep, --train --evaluate_every)", MEASURING, "evaluate"),
    Group("page (--page)", tuple(_paging())),
    Group("run", tuple(_run())),
)
OPTIONS: dict[str, Option] = {option.name: option for group in GROUPS for option in group.options}


def documentation() -> str:
    """Write all options as the Markdown tables of docs/options.md."""
    lines = []
    for group in GROUPS:
        lines += [f"## {group.title[0].upper()}{group.title[1:]}", ""]
        lines += ["| option | | default | with --resume |", "| --- | --- | --- | --- |"]
        for option in group.options:
            has_none = option.default_value is None or option.default_value is False
            default = "" if has_none else f"`{written_value(option.default_value)}`"
            text = option.help.replace("|", "\\|")
            if option.choices and option.default_value is not None:
                text += ": " + ", ".join(f"`{choice}`" for choice in option.choices)
            lines.append(f"| `{option.usage}` | {text} | {default} | {option.resume.value} |")
        lines.append("")
    return "\n".join(lines)


def written_value(value: Any) -> str:
    """Write a value as on the command line."""
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)

"""The options of the command line: one row (an Option) says everything about one option.

The parser, the help, the configs, the warning "no effect here", the rules of --resume and
docs/options.md are made from these rows. To add an option, add a row. If it fills a field of a
config, its default is that of the field. This file does not import torch, so that --help and error
messages appear at once.
"""

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

from commands import kinds
from commands.option import Fill, Group, Many, Option, Resume
from data.datasets import DATASETS
from data.spec import FITS, RESIZES, VIEWS, Preparation
from metrics.better import BETTER, INCEPTION, PROTOCOL_NAMES
from models.maskbit.config import BitTokenizerConfig
from models.maskgit.config import TransformerConfig
from models.registry import FAMILIES
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


def _modes(text: str) -> frozenset[str]:
    """Split a text into the names of modes."""
    return frozenset(text.split())


AUTO = "auto"  # a value of --device and --precision
BEST = "best"  # a value of --settings
TRAINING = _modes("train_vae train distill")
# --train makes its sample grids.
GENERATING = _modes("train sample edit evaluate sweep page")
OPENING = (GENERATING - {"train"}) | {"distill", "show_plan", "export"}  # a trained model
COMPARING = OPENING | {"train", "reconstruct"}  # a trained network, with the options that shape it
READING = (GENERATING - {"sample"}) | {"train_vae", "reconstruct"}  # images of a dataset
LOOKING = READING | {"look"}
SHOWN = LOOKING - {"page"}  # images of a dataset or of the user, shown as the options say
COMPUTING = READING | {"distill", "sample"}
EVERY_RUN = COMPUTING | _modes("look show_plan export curves")
OWN = "a checkpoint has its own values"
WARMUP = "epochs of linear warm-up, at most a tenth of the run; a decay to 0 follows"


def _row(
    name: str,
    kind: Callable[[str], Any] | None,
    unit: str,
    text: str,
    field: str = "",
    *,
    modes: str | frozenset[str],
    configs: tuple[type, ...] = (),
    **more: Any,
) -> Option:
    """Make an option.

    Args:
        configs: the configs whose field it fills.
        field: name of that field, if it is not called like the option.
        **more: other values of an Option.
    """
    names = _modes(modes) if isinstance(modes, str) else modes
    fills = tuple(Fill(config, field or name) for config in configs)
    return Option(name, text, kind, unit, names, **{"fills": fills, **more})


# The tables: each option in the form name, kind, unit, help, field. Above each table, `row` and
# names like it get what most of its options have in common.
# fmt: off
row = partial(_row, modes="", resume=Resume.FREE)
shown = partial(_row, modes=SHOWN, configs=(Preparation,), resume=Resume.RUN)
DATA = Group("data", (
    row("dataset", str, "NAME", "dataset", modes=LOOKING | OPENING | {"download_only"},
        default="mnist", resume=Resume.RUN, choices=tuple(DATASETS)),
    row("data_dir", kinds.path, "DIR",
        "folder of the datasets, or of your own images; a model finds that of its training",
        modes=LOOKING | {"download_only"}, default="datasets"),
    shown("fit", str, "HOW",
          "crop keeps the center of an image; pad keeps all of it and adds bars",
          choices=FITS),
    shown("resize", str, "RULE", "filter that resizes images: bilinear, ADM's or bicubic",
          choices=tuple(RESIZES)),
    shown("background", kinds.color, "COLOR",
          "color of transparent parts and of the bars of --fit pad: a name or #rrggbb"),
    shown("flips", str, "HOW",
          "flips of training images, none for letters: none, horizontal, both (also vertical) "
          "[the dataset's own]",
          modes="train_vae train", choices=tuple(VIEWS)),
    shown("augment", kinds.whole_number, "N",
          "also train on N changed copies of every image: shifted, cropped, in other colors",
          modes="train_vae train"),
    row("cache_dir", kinds.path, "DIR", "folder of the token caches [<output_dir>/tokens]",
        modes=LOOKING),
    row("size", kinds.image_size, "PIXELS",
        "height and width of the images, as in 64 or 32x64 [the dataset's own]",
        "image_size", modes=LOOKING | {"download_only"}, configs=(VQGANConfig,), default=None,
        compared=True, resume=Resume.RUN),
    row("n_classes", kinds.positive_int, "N",
        "number of classes; every dataset has its own, so the option only checks it",
        modes="train", default=10, compared=True, resume=Resume.FORGET),
    row("num_workers", kinds.whole_number, "N", "extra processes that read images; 0 for none",
        modes=SHOWN, default=0),
    row("checkpoint_vae", kinds.checkpoint, "FILE",
        "trained VQ-GAN, as in --checkpoint [the run's own, else the one bundled for the dataset]",
        modes=COMPARING),
    row("tokenizer", str, "NAME",
        "family of the tokenizer",
        modes=COMPARING | {"train_vae"}, default=VQGANConfig.family, resume=Resume.STAGE,
        choices=FAMILIES["tokenizer"].keys()),
    row("splits", kinds.positive_int, "N",
        "number of tokens that share the bits of a cell (family maskbit)", modes="train",
        configs=(BitTokenizerConfig,), compared=True, resume=Resume.STAGE),
))

row = partial(_row, modes="train_vae", configs=(VQGANConfig,), compared=True, resume=Resume.STAGE)
TOKENIZER = Group(f"tokenizer (for a new {VQGANConfig.family}; {OWN})", (
    row("channels", kinds.positive_int, "N", "channels at full resolution"),
    row("z_channels", kinds.positive_int, "N", "channels before the codebook"),
    row("ch_mult", kinds.int_list, "N", "channel multipliers, one per resolution", many=Many.LIST),
    row("num_res_blocks", kinds.positive_int, "N", "residual blocks per resolution"),
    row("norm_groups", kinds.positive_int, "N",
        "groups of each normalization; too few channels in a group lose the colors of flat images"),
    row("attn_resolutions", kinds.int_list, "N",
        "sides in pixels of the feature maps that have attention; [] for none", many=Many.LIST),
    row("no_middle_attention", None, "",
        "no attention between the middle blocks; with --attn_resolutions [] any size works",
        fills=(Fill(VQGANConfig, "middle_attention", operator.not_),), default=False,
        compared=False),
    row("dropout", kinds.rate, "P", "dropout in encoder and decoder"),
    row("double_z", None, "", "the encoder returns 2 * z_channels channels"),
    row("n_embed", kinds.positive_int, "K", "codebook size"),
    row("embed_dim", kinds.positive_int, "N", "width of a code"),
    row("remap", kinds.path, "FILE",
        ".npy file with the numbers of the used codes; tokens are numbered among these"),
    row("sane_index_shape", None, "", "the quantizer returns tokens as (B, h, w), not flat"),
    row("colorize_nlabels", kinds.positive_int, "N",
        "number of channels, if they are labels; each is shown in a random color"),
))

row = partial(_row, modes="train_vae", configs=(VQGANTrainingConfig,), resume=Resume.STAGE)
TOKENIZER_TRAINING = Group("tokenizer training (--train_vae)", (
    row("n_epochs_vae", kinds.positive_int, "N", "epochs", "epochs", resume=Resume.GROW),
    row("batch_size_vae", kinds.positive_int, "N", "images per step", "batch_size",
        modes="train_vae reconstruct"),
    row("optimizer_vae", str, "NAME", "muon trains the weights of convolutions, AdamW the others",
        "optimizer", choices=OPTIMIZERS),
    row("linear_start", None, "",
        "start with residual blocks that do nothing and convolutions that keep the variance"),
    row("lr_vae", kinds.positive, "LR", "peak learning rate", "lr"),
    row("warmup_vae", kinds.non_negative, "EPOCHS", WARMUP, "warmup_epochs"),
    row("betas_vae", kinds.beta_list, "B", "betas of Adam, two numbers", "betas",
        many=Many.LIST, length=2),
    row("disc_start", kinds.whole_number, "STEP", "first step with the discriminator"),
    row("disc_weight", kinds.non_negative, "W",
        "weight of the adversarial loss; 0 trains without a discriminator"),
    row("init_vae", kinds.checkpoint, "FILE",
        "start from the averaged weights of this trained VQ-GAN", "init"),
    row("freeze_vae", kinds.pattern_list, "PATTERN",
        "parameters of the VQ-GAN that are not trained, as in encoder.*,quantize.*", "freeze",
        many=Many.LIST),
    row("codebook_weight", kinds.non_negative, "W", "weight of the codebook's loss"),
    row("chroma_weight", kinds.non_negative, "W",
        "weight of the color differences (red - green, blue - yellow) in the reconstruction loss"),
    row("perceptual_weight", kinds.non_negative, "W",
        "weight of the perceptual loss; 0 needs no VGG weights"),
    row("perceptual_vgg", kinds.checkpoint, "FILE",
        "file vgg16-397923af.pth of torchvision, if it cannot be downloaded",
        modes="train_vae evaluate", resume=Resume.FREE),
))

row = partial(_row, modes="train", configs=(TransformerConfig,), compared=True, resume=Resume.STAGE)
TRANSFORMER = Group(f"transformer (for a new {TransformerConfig.family}; {OWN})", (
    row("transformer", str, "NAME", "family of a new transformer", configs=(),
        default=TransformerConfig.family, compared=False, choices=FAMILIES["transformer"].keys()),
    row("embed_dim_t", kinds.positive_int, "N", "width of the token embedding", "embed_dim"),
    row("hidden_dim", kinds.positive_int, "N", "width of the blocks, a multiple of --heads"),
    row("heads", kinds.positive_int, "N", "attention heads"),
    row("depth", kinds.positive_int, "N", "number of blocks"),
    row("mlp_dim", kinds.positive_int, "N", "width of the MLPs"),
    row("dropout_t", kinds.rate, "P", "dropout in the transformer", "dropout"),
))

row = partial(_row, modes="train", configs=(TrainingConfig,), resume=Resume.STAGE)
both = partial(_row, modes="train_vae train", configs=(TrainingConfig,), resume=Resume.STAGE)
saves = partial(_row, modes=TRAINING, configs=(LoopConfig,), resume=Resume.FREE)
plain = partial(_row, modes="train")
TRANSFORMER_TRAINING = Group("training (--train)", (
    row("n_epochs", kinds.positive_int, "N", "epochs", "epochs", resume=Resume.GROW),
    row("batch_size", kinds.positive_int, "N",
        "images per step over all processes, and images sampled at once", modes=GENERATING),
    row("optimizer", str, "NAME", "muon trains the weights of linear layers, AdamW the others",
        choices=OPTIMIZERS),
    row("lr", kinds.positive, "LR", "peak learning rate"),
    row("warmup", kinds.whole_number, "EPOCHS", WARMUP, "warmup_epochs"),
    row("betas", kinds.beta_list, "B", "betas of AdamW, two numbers", many=Many.LIST, length=2),
    row("weight_decay", kinds.non_negative, "W", "weight decay of linear layers"),
    row("sched_mode", str, "NAME",
        "mask schedule; those with -cumulative are the paper's, for sampling only",
        modes=GENERATING | {"show_plan"}, choices=CHOICES["schedule"],
        fills=(Fill(TrainingConfig, "schedule", training_schedule),
               Fill(SamplingConfig, "schedule"))),
    row("drop-label", kinds.rate, "P",
        "share of images trained without their class, which guidance needs; 0: no guidance",
        "label_drop"),
    both("init", kinds.checkpoint, "FILE",
         "start from the averaged weights of this model; without --train, of this VQ-GAN"),
    both("freeze", kinds.pattern_list, "PATTERN",
         "parameters that are not trained, as in blocks.0.*,first.*; without --train, the VQ-GAN's",
         many=Many.LIST),
    row("label_smoothing", kinds.rate, "P", "label smoothing of the cross-entropy"),
    row("grad_clip", kinds.non_negative, "NORM", "largest gradient norm; 0 for no clipping",
        modes="train distill", configs=(TrainingConfig, DistillConfig)),
    both("grad_accum", kinds.positive_int, "N", "compute a batch in N parts, to save memory",
         configs=(TrainingConfig, VQGANTrainingConfig), resume=Resume.FREE),
    row("ema_decay", kinds.rate, "D", "decay of the averaged weights; 0 for none",
        modes=TRAINING, configs=(TrainingConfig, VQGANTrainingConfig, DistillConfig)),
    saves("sample_and_save_freq", kinds.positive_int, "EPOCHS",
          "write a sample grid and a checkpoint every EPOCHS epochs", "save_every_epochs"),
    saves("keep_checkpoints", kinds.whole_number, "N",
          "also keep the last N checkpoints, with their step in the name"),
    saves("publish", str, "WHICH",
          "publish the weights of the last step, or those of the lowest validation loss; both: "
          "these as <name>_best.pt", choices=PUBLISHED),
    saves("early_stop", kinds.whole_number, "N",
          "end after N epochs without a lower validation loss; 0: never"),
    plain("evaluate_every", kinds.whole_number, "EPOCHS",
          "score samples every EPOCHS epochs, and keep the checkpoint of the lowest FID; 0: never",
          default=0),
    plain("evaluate_samples", kinds.positive_int, "N", "samples for --evaluate_every",
          default=2000),
    plain("minutes", kinds.positive, "MIN",
          "end the command within this time; the speed of the steps decides the epochs",
          modes="train_vae train", resume=Resume.RUN),
    plain("resume", None, "", "continue the run from its last saved state, if there is one",
          modes=TRAINING),
    plain("new_images", None, "",
          "with --resume: also train on images and classes added since then (--dataset folder)",
          modes="train_vae train"),
))

row = partial(_row, modes="distill", configs=(DistillConfig,), resume=Resume.STAGE)
DISTILLING = Group("distillation (--distill)", (
    row("n_epochs_distill", kinds.positive_int, "N",
        f"epochs of {UPDATES_PER_EPOCH} optimizer steps", "epochs", resume=Resume.GROW),
    row("batch_size_distill", kinds.positive_int, "N", "images per step", "batch_size"),
    row("lr_distill", kinds.positive, "LR", "peak learning rate of the student", "lr"),
    row("teacher_cfg_w", kinds.strength, "W",
        "guidance of the teacher, as --cfg_w; the student then needs none", "teacher_guidance"),
))

row = partial(_row, modes=GENERATING | {"show_plan"}, configs=(SamplingConfig,), resume=Resume.FREE)
image = partial(_row, modes=GENERATING)
SAMPLING = Group("sampling (--sample, and the grids of --train)", (
    image("checkpoint", kinds.checkpoint, "FILE",
          "trained model, the teacher of --distill: a file, the only one in a folder, or "
          "hf:owner/name[/file][@revision] [the run's own]", modes=OPENING | {"reconstruct"}),
    image("num_samples", kinds.sample_count, "N",
          "number of images; if it is not given: one per label of --labels, 50000 for --evaluate "
          "(likelihood: all real images), 1000 for each row of --sweep",
          default=16, resume=Resume.FREE),
    image("labels", str, "C",
          "classes to make in turn: numbers, names, ranges 0-9, none; 3x8: 3 eight times [all]",
          resume=Resume.FREE, many=Many.WORDS),
    image("first_image", kinds.image_index, "I",
          "index of the first image; an image depends on its class and index, not on the others",
          default=0),
    image("start_tokens", kinds.path, "FILE",
          "start all images in the middle of a decoding; the page writes this file for a branch",
          modes="sample edit"),
    row("step", kinds.positive_int, "T", "decoding steps, at most one per token", "num_steps"),
    row("cfg_w", kinds.strength, "W",
        "largest guidance of all steps: (1 + W) * class - W * no class", "guidance"),
    row("r_temp", kinds.strength, "T",
        "Gumbel noise on the confidence; falls to 0 at the last step; not for halton and random",
        "choice_temperature"),
    row("sm_temp", kinds.scale, "S",
        "factor on the logits before the softmax; above 1 sharpens", "logit_scale"),
    row("sm_temp_first", kinds.scale, "S",
        "another factor on the logits of the first step only; below 1 flattens",
        "first_logit_scale"),
    row("halton_roll", str, "NAME",
        "whether each image starts at a random point of the order of --sampler halton",
        choices=CHOICES["halton_roll"]),
    row("mask-value", kinds.token_or_none, "ID",
        "token at hidden positions at the start; negative: random tokens [none: the mask token]",
        "start_token"),
    row("sampler", str, "NAME", "which hidden positions are revealed first",
        choices=CHOICES["sampler"]),
    row("cfg_schedule", str, "NAME",
        "guidance over the steps: rises from 0, is the same, is on in --cfg_interval, rises late",
        "guidance_schedule", choices=CHOICES["guidance_schedule"]),
    row("cfg_interval", kinds.share_list, "SHARE",
        "two shares of hidden tokens; --cfg_schedule interval guides between them",
        "guidance_interval", many=Many.LIST, length=2),
    row("cfg_power", kinds.scale, "P", "how late --cfg_schedule power-cosine rises",
        "guidance_power"),
    image("settings", str, "NAME",
          "where options that you leave out get their values: the defaults, or the best settings "
          "that --sweep --keep_best wrote into the checkpoint",
          modes="show_plan sample edit evaluate sweep", default="defaults",
          choices=("defaults", BEST)),
    image("save_steps", str, "VIEW",
          "also write pictures of the first images at every decoding step, with the hidden cells "
          "covered (hidden), or as the model imagines the whole image (imagined) [hidden]",
          modes="sample",
          choices=("hidden", "imagined"), bare="hidden"),
), home="sample")

row = partial(_row, modes="edit")
EDITING = Group("editing (--edit; a token is regenerated if its cell overlaps the marked pixels)", (
    row("init_image", kinds.path, "IMAGE",
        "image to edit: a file, or <dataset>:<index> for an image of the validation split"),
    row("mask_box", kinds.box_of, "X0,Y0,X1,Y1",
        "rectangle to regenerate, in pixels of the model's images; may be repeated",
        many=Many.REPEATED),
    row("mask_image", kinds.path, "FILE",
        "image whose white parts, or transparent hole, mark the region; resized like the image"),
    row("mask_threshold", kinds.brightness, "LEVEL",
        "lowest brightness that marks the region, for a --mask_image with gray parts"),
    row("outpaint", kinds.margin, "SIDE=PIXELS",
        "shift the image and regenerate the free margin: left, right, top or bottom, in pixels",
        many=Many.REPEATED),
    row("mask_grow", kinds.whole_number, "TOKENS",
        "grow the region to regenerate by this number of tokens on every side",
        modes="edit page", default=0),
    row("no_composite", None, "", "do not put the original pixels back outside the region",
        modes="edit page"),
))

row = partial(_row, modes="evaluate")
judge = partial(_row, modes="evaluate sweep train")  # in --train with --evaluate_every
MEASURING = Group("measuring (--evaluate, --sweep, --train --evaluate_every)", (
    row("images", kinds.path, "PATH",
        "score these instead of samples: a folder of images, an .npz file with arr_0, or an .npy"),
    judge("reference", kinds.path, "SPLIT",
          "real images to compare with: train, validation [train; for a tokenizer validation], or "
          "a file of statistics of ADM, EDM, EDM2, MAR, MaskBit, clean-fid or Halton MaskGIT"),
    judge("protocol", str, "NAME",
          "measure like another program, to compare with its published scores: ADM's evaluator, "
          "EDM2, clean-fid; or like this program", default="ours", choices=PROTOCOL_NAMES),
    row("write_reference", kinds.path, "FILE",
        "also write the statistics of the real images, for other programs: .npz (ADM) or .pkl"),
    judge("features", kinds.path, "KIND",
          "features to compare: inception; dinov2 for FD_DINOv2, with images resized as in EDM2; "
          "dinov2-pil, as in dgm-eval; or your own extractor, a TorchScript file whose code runs: "
          "uint8 (B, C, H, W) -> features (B, D) or (features, logits) or (features, logits, "
          "spatial features)", default=INCEPTION),
    judge("feature_weights", kinds.checkpoint, "FILE",
          "weights of --features, if they cannot be downloaded: "
          "weights-inception-2015-12-05-6726825d.pth or dinov2_vitl14_pretrain.pth"),
    row("repeats", kinds.positive_int, "N",
        "sample N times, with this and the next seeds: mean and spread of every score",
        default=1),
    row("per_class", None, "",
        "also write FID and accuracy of each class, as a table and a picture"),
    row("nearest", None, "",
        "also find the training image nearest to each sample, to see if samples are copies"),
    row("classify", kinds.whole_number, "N",
        "with --evaluate likelihood: also classify N images, each by its most likely class",
        default=0),
    row("keep_best", str, "METRIC",
        "write the best settings of the sweep into the checkpoint, for --settings best: those "
        f"with the lowest fid, or by another score ({', '.join(BETTER)})",
        modes="sweep", choices=tuple(BETTER), bare="fid"),
), home="evaluate")

row = partial(_row, modes=COMPUTING)
RUN = Group("run", (
    row("output_dir", kinds.path, "DIR", "folder of all runs", modes=EVERY_RUN, default="runs"),
    row("run_name", kinds.plain_name, "NAME", "folder of this run [the dataset's name]",
        modes=EVERY_RUN),
    row("seed", kinds.whole_number, "N", "seed of all random numbers",
        modes=TRAINING | GENERATING, resume=Resume.STAGE,
        configs=(TrainingConfig, VQGANTrainingConfig, DistillConfig, Preparation)),
    row("device", kinds.text, "NAME", "auto, cpu, cuda, cuda:<i> or mps", default=AUTO),
    row("precision", str, "NAME", "dtype of matrix products; auto takes bf16 where it is faster",
        default=AUTO, resume=Resume.RUN, choices=(AUTO, "fp32", "bf16")),
    row("compile", kinds.compiling, "HOW",
        "CUDA graphs on GPUs (auto) or torch.compile (on; slow start)",
        modes=COMPUTING - {"distill"}, choices=(AUTO, "on", "off"), bare="on", default=AUTO),
    row("deterministic", None, "", "give the same bits in every run on CUDA too; somewhat slower",
        resume=Resume.FREE),
    row("no_wandb", None, "", "do not log to Weights & Biases", modes=TRAINING, default=False,
        fills=(Fill(LoopConfig, "use_wandb", operator.not_),), resume=Resume.FREE),
    row("dry_run", None, "", "print what the modes would do, and stop",
        modes=EVERY_RUN | {"page", "download_only"}),
))

GROUPS = (
    DATA, TOKENIZER, TOKENIZER_TRAINING, TRANSFORMER, TRANSFORMER_TRAINING, DISTILLING, SAMPLING,
    EDITING, MEASURING, RUN,
)
# fmt: on
OPTIONS: dict[str, Option] = {option.name: option for group in GROUPS for option in group.options}

"""Reads VQ-GANs of other programs, in the layout of taming-transformers, and applies a remap.

Such files hold only weights. The config follows from the shapes of the weights; the few fields that
shapes do not show come from the user. Known layouts: a bare state dict (caetas/GenerativeZoo), a
Lightning checkpoint with the entry `state_dict`, and a whole transformer checkpoint with the VQ-GAN
under `first_stage_model.`; each of them in any further wrappers (models/foreign_file.py).
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from models.family import Family, Found
from models.foreign_file import ForeignFile, unwrapped
from models.foreign_weights import count_modules, shape_of
from models.vqgan.config import VQGANConfig
from models.vqgan.network import VQModel
from utils.errors import UserError
from utils.size import Size

log = logging.getLogger(__name__)

FIRST_STAGE = ("first_stage_model",)  # around the VQ-GAN in a file with its transformer
SIGNS = (
    "encoder.conv_in.weight",
    "decoder.conv_out.weight",
    "quantize.embedding.weight",
    "quantize.embed.weight",
)
MIDDLE_ATTENTION = ("encoder.mid.attn_1.", "decoder.mid.attn_1.")
NEEDED = (*SIGNS[:3], "encoder.down.0.block.0.conv1.weight")
STATISTICS = "a statistic of the codes in training"
# Entries that have no effect on tokens and images, and why. A file with any other entry that the
# network does not use is refused.
IGNORED = {
    "loss.": "networks of the losses",
    "quantize.embedding.cluster_size": STATISTICS,
    "quantize.embedding.embed_avg": STATISTICS,
    "quantize.cluster_size": STATISTICS,
    "quantize.embed_avg": STATISTICS,
    "quantize.codebook_used": STATISTICS,
}
NOT_IN_WEIGHTS = ("dropout", "sane_index_shape")  # fields that shapes do not show
Config = TypeVar("Config", bound=VQGANConfig)


def recognizes(file: ForeignFile) -> bool:
    """Return whether a file holds any weights of a VQ-GAN, so that `read` can say what is wrong."""
    return bool(unwrapped(file.stored, SIGNS).weights)


def read(file: ForeignFile, image_size: Size, given: Mapping[str, Any]) -> Found:
    """Read the VQ-GAN in a file of another program: its config, and its weights.

    Args:
        image_size: height and width of its images in pixels, which the file does not hold.
        given: fields of VQGANConfig that the user set.

    Raises:
        ValueError: if the weights do not make a VQ-GAN.
        UserError: if they are of another kind of VQ-GAN.
    """
    weights = find_weights(file)
    config = config_of(VQGANConfig, weights, image_size, given)
    if config.num_res_blocks == 4:
        log.warning(
            "%s could be of IBQ, without its averages; if so, give `tokenizer` ibq", file.path
        )
    return config, weights


def config_of(
    kind: type[Config],
    weights: Mapping[str, Tensor],
    image_size: Size,
    given: Mapping[str, Any],
    **known: Any,
) -> Config:
    """Make the config of a VQ-GAN, or of one of a family like it.

    Args:
        kind: the config class of the family.
        weights: those of the network, with taming's names.
        given: fields of VQGANConfig that the user set.
        **known: fields that only the config of the family has.

    Raises:
        ValueError: as `read`.
    """
    inferred = infer_config(weights, image_size)
    from_user = {name: given[name] for name in NOT_IN_WEIGHTS if name in given}
    return kind(**{**inferred, **from_user, **known})


def find_weights(file: ForeignFile) -> dict[str, Tensor]:
    """Pick a VQModel's weights from the contents of a file, in float32 under taming's names.

    Entries without effect are left out.

    Raises:
        UserError: if the file holds none, or another kind of VQ-GAN.
    """
    weights = file.weights(SIGNS, IGNORED, FIRST_STAGE)
    _refuse_other_kinds(weights, file.path)
    images, colorize = weights["encoder.conv_in.weight"], weights.get("colorize")
    if colorize is not None and colorize.shape[1:2] != images.shape[1:2]:
        # taming makes this buffer for any number of labels, but uses it only for label images.
        log.info("%s: ignoring its colors of labels, because its images are not labels", file.path)
        del weights["colorize"]
    return weights


def _refuse_other_kinds(weights: Mapping[str, Tensor], path: Path) -> None:
    """Refuse kinds of VQ-GANs that this program does not have, by their weights."""
    needed = "a VQ-GAN whose tokens are nearest codes is needed"
    if "quantize.embed.weight" in weights:
        raise UserError(
            f"{path} has a Gumbel quantizer, which this program does not have; {needed}"
        )
    for name in NEEDED:
        if name not in weights:
            raise UserError(f"{path} holds no VQ-GAN in taming-transformers' layout: no {name}")
    if any(name.startswith("model_ema.") for name in weights):
        raise UserError(
            f"{path} holds averages of its weights (model_ema.decay and so on), as the tokenizers "
            f"of IBQ do, whose tokens are not the nearest codes; if it is one, give `tokenizer` ibq"
        )
    if any(".to_qkv." in name for name in weights):
        raise UserError(
            f"{path} has linear attention (attn_type: linear), which this program does not have; "
            "one with ordinary attention or none is needed"
        )
    several = any(name.startswith("encoder.down.1.") for name in weights)
    if several and "encoder.down.0.downsample.conv.weight" not in weights:
        raise UserError(
            f"{path} changes its resolution without convolutions (resamp_with_conv: False), which "
            "this program does not do; one with resamp_with_conv: True is needed"
        )


def infer_config(weights: Mapping[str, Tensor], image_size: Size) -> dict[str, Any]:
    """Read the fields of VQGANConfig from the shapes of weights.

    Args:
        weights: what `find_weights` returned.

    Returns:
        All fields except those in NOT_IN_WEIGHTS. They are not validated: impossible shapes give
        impossible fields.

    Raises:
        ValueError: if a weight is missing, or has the wrong number of axes.
    """
    # Shapes, and numbers of modules.
    channels, image_channels = shape_of(weights, "encoder.conv_in.weight", 4)[:2]
    levels = count_modules(weights, "encoder.down.")
    blocks = count_modules(weights, "encoder.down.0.block.")
    widths = [
        shape_of(weights, f"encoder.down.{level}.block.0.conv2.weight", 4)[0]
        for level in range(levels)
    ]
    z_channels = shape_of(weights, "decoder.conv_in.weight", 4)[1]
    n_embed, embed_dim = shape_of(weights, "quantize.embedding.weight", 2)
    middle = [name for name in weights if name.startswith(MIDDLE_ATTENTION)]
    return {
        "image_size": image_size,
        "image_channels": image_channels,
        "channels": channels,
        "z_channels": z_channels,
        "ch_mult": tuple(width // channels for width in widths),
        "num_res_blocks": blocks,
        "attn_resolutions": tuple(
            min(image_size) // 2**level
            for level in range(levels)
            if f"encoder.down.{level}.attn.0.q.weight" in weights
        ),
        "double_z": shape_of(weights, "encoder.conv_out.weight", 4)[0] == 2 * z_channels,
        "n_embed": n_embed,
        "embed_dim": embed_dim,
        "remap": _used_codes(weights),
        "colorize_nlabels": shape_of(weights, "colorize", 4)[1] if "colorize" in weights else None,
        "middle_attention": bool(middle),
    }


def _used_codes(weights: Mapping[str, Tensor]) -> tuple[int, ...] | None:
    """Return the remap in weights; None if all codes are in use."""
    if "quantize.used" not in weights:
        return None
    shape_of(weights, "quantize.used", 1)
    used = weights["quantize.used"]
    if used.dtype != torch.int64:
        raise ValueError("quantize.used does not hold numbers of codes")
    return tuple(used.tolist())


FAMILY = Family(
    config=VQGANConfig,
    network=VQModel,
    layout="VQ-GAN in taming-transformers' layout (encoder.conv_in.weight, ...)",
    recognizes=recognizes,
    read=read,
)

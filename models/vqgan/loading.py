"""Open a trained VQ-GAN: one of this program, or one in the layout of taming-transformers.

Files of the second kind hold weights alone. Their architecture is read off the shapes of the
weights where these tell it, and taken from the options where they do not. Known layouts: a bare
state dict (caetas/GenerativeZoo), a Lightning checkpoint with the entry `state_dict`, and a whole
transformer checkpoint with the VQ-GAN under `first_stage_model.`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from models.vqgan.config import VQGANConfig
from models.vqgan.network import VQModel
from models.vqgan.tokenizer import Tokenizer
from utils.checkpoint import contents_of, is_own_format, read_torch_file
from utils.errors import UserError, one_line
from utils.refusals import reject_contradictions
from utils.weights import build_with_weights

PREFIXES = ("first_stage_model.", "module.", "_orig_mod.")
PARTS = ("encoder.", "decoder.", "quantize.", "quant_conv.", "post_quant_conv.", "colorize")


def load_tokenizer(
    path: Path, image_size: int, image_channels: int, given: Mapping[str, Any]
) -> Tokenizer:
    """Load a tokenizer onto the CPU.

    Args:
        path: a VQGAN_*.pt or MaskGIT_*.pt of this program, or a file in taming's layout.
        image_size: pixels along one side of its images, where the file does not tell.
        image_channels: of the images it is wanted for.
        given: fields of VQGANConfig that were set by hand, "remap" as the path of its file. A
            remap is applied to a tokenizer that has none.

    Raises:
        UserError: if the file is missing, damaged, or no VQ-GAN, or if it does not fit the images
            or a given field; names both values.
    """
    stored = read_torch_file(path)
    if is_own_format(stored):
        kind = "maskgit" if stored.get("kind") == "maskgit" else "vqgan"
        tokenizer = Tokenizer.from_entry(contents_of(stored, path, kind).get("tokenizer", {}))
        reject_contradictions(VQGANConfig, given, vars(tokenizer.config), path)
    else:
        tokenizer = _from_weights(path, find_weights(stored, path), image_size, given)
    if tokenizer.channels != image_channels:
        raise UserError(
            f"{path} is for images of {tokenizer.channels} channel(s); those of the dataset have "
            f"{image_channels}"
        )
    return _with_remap(path, tokenizer, given.get("remap"))


def read_remap(path: Path, n_embed: int) -> tuple[int, ...]:
    """Read the file of --remap: an .npy with the numbers of the used codes.

    Args:
        path: the file.
        n_embed: rows of the codebook that it belongs to.

    Raises:
        UserError: if it is missing, or is not a list of different codes in [0, n_embed).
    """
    try:
        codes = np.load(path, allow_pickle=False)
    except OSError as error:
        raise UserError(f"--remap {path}: {error.strerror or one_line(error)}") from error
    except Exception as error:
        # A damaged header is parsed as Python, and fails with whatever its parser raises.
        raise UserError(f"--remap {path} is no whole .npy file of numbers") from error
    if not isinstance(codes, np.ndarray) or codes.ndim != 1 or codes.dtype.kind not in "iu":
        raise UserError(f"--remap {path}: must hold one array of whole numbers, the used codes")
    remap = tuple(codes.tolist())
    try:
        VQGANConfig(n_embed=n_embed, remap=remap).validate()
    except ValueError as error:
        raise UserError(f"--remap {path}: {error}") from error
    return remap


def find_weights(stored: Any, path: Path) -> dict[str, Tensor]:
    """Pick a VQModel's weights from what a file holds, in float32 and under taming's names.

    The weights of losses and of anything else around the model are left out.

    Raises:
        UserError: if there are none.
    """
    entries = stored.get("state_dict", stored) if isinstance(stored, Mapping) else {}
    if not isinstance(entries, Mapping):
        entries = {}
    tensors = {k: v for k, v in entries.items() if isinstance(k, str) and isinstance(v, Tensor)}
    for prefix in PREFIXES:
        if any(name.startswith(f"{prefix}encoder.") for name in tensors):
            size = len(prefix)
            tensors = {k[size:]: v for k, v in tensors.items() if k.startswith(prefix)}
    weights = {name: value for name, value in tensors.items() if name.startswith(PARTS)}
    if "quantize.embed.weight" in weights:
        raise UserError(
            f"{path} has a Gumbel quantiser, whose tokens are random; a VQ-GAN with nearest "
            "codes is needed"
        )
    for name in ("encoder.conv_in.weight", "decoder.conv_out.weight", "quantize.embedding.weight"):
        if name not in weights:
            raise UserError(f"{path} holds no VQ-GAN in taming-transformers' layout: no {name}")
    return {k: v.float() if v.is_floating_point() else v for k, v in weights.items()}


def infer_config(weights: Mapping[str, Tensor], image_size: int) -> dict[str, Any]:
    """Read the fields of VQGANConfig off the shapes of weights.

    Args:
        weights: as `find_weights` returns them.
        image_size: to name the resolutions that have attention.

    Returns:
        All fields but `dropout` and `sane_index_shape`, which leave no trace. Fields that follow
        from impossible shapes are impossible themselves; the weights then fit no model.

    Raises:
        KeyError: if a weight is missing.
    """
    channels, image_channels = weights["encoder.conv_in.weight"].shape[:2]
    levels = _count(weights, "encoder.down.")
    blocks = _count(weights, "encoder.down.0.block.")
    widths = [
        weights[f"encoder.down.{level}.block.0.conv2.weight"].shape[0] for level in range(levels)
    ]
    z_channels = weights["decoder.conv_in.weight"].shape[1]
    n_embed, embed_dim = weights["quantize.embedding.weight"].shape
    used, colorize = weights.get("quantize.used"), weights.get("colorize")
    return {
        "image_size": image_size,
        "image_channels": image_channels,
        "channels": channels,
        "z_channels": z_channels,
        "ch_mult": tuple(width // channels for width in widths),
        "num_res_blocks": blocks,
        "attn_resolutions": tuple(
            image_size // 2**level
            for level in range(levels)
            if f"encoder.down.{level}.attn.0.q.weight" in weights
        ),
        "double_z": weights["encoder.conv_out.weight"].shape[0] == 2 * z_channels,
        "n_embed": n_embed,
        "embed_dim": embed_dim,
        "remap": None if used is None else tuple(used.tolist()),
        "colorize_nlabels": None if colorize is None else colorize.shape[1],
    }


def _from_weights(
    path: Path, weights: dict[str, Tensor], image_size: int, given: Mapping[str, Any]
) -> Tokenizer:
    try:
        inferred = infer_config(weights, image_size)
        reject_contradictions(VQGANConfig, given, inferred, path)
        traceless = {k: given[k] for k in ("dropout", "sane_index_shape") if k in given}
        config = VQGANConfig(**{**inferred, **traceless})
        config.validate()
        return Tokenizer(build_with_weights(lambda: VQModel(config), weights))
    except (KeyError, ValueError) as error:
        reason = one_line(error)
        raise UserError(f"the weights in {path} do not make a VQ-GAN: {reason}") from error


def _with_remap(path: Path, tokenizer: Tokenizer, remap_path: str | None) -> Tokenizer:
    """Apply --remap, or check that it is what the tokenizer has already."""
    if remap_path is None:
        return tokenizer
    remap = read_remap(Path(remap_path), tokenizer.config.n_embed)
    if tokenizer.config.remap is None:
        return tokenizer.remapped(remap)
    if tokenizer.config.remap != remap:
        raise UserError(
            f"--remap {remap_path} names {len(remap)} codes, others than the "
            f"{tokenizer.codebook_size} in use in {path}; leave the option out"
        )
    return tokenizer


def _count(weights: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbers follow a prefix in the names of weights."""
    return len({k[len(prefix) :].split(".")[0] for k in weights if k.startswith(prefix)})

"""The DINOv2 network of FD_DINOv2 (Stein et al. 2023; Oquab et al. 2023), from its weights alone.

The weights go into torchvision's VisionTransformer, so no code is downloaded. Two things differ
there. DINOv2 scales the output of each branch (LayerScale): the scales become a part of the last
linear map of the branch. And its positions are for images of 518 pixels: they are interpolated once
to those of 224.

Axes: B images of a batch, H W pixels, D width.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.models import VisionTransformer

from metrics.extractor import Extractor, downloaded
from utils.errors import UserError, one_line
from utils.files import read_with_digest
from utils.torch_file import read_torch_file

SIDE, PATCH, HEAD = 224, 14, 64  # pixels of an image and of a patch, width of an attention head
OFFSET = 0.1  # that DINOv2 adds to the number of patches when it interpolates positions
MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, for pixels in [0, 1]
FILE = "dinov2_vitl14_pretrain.pth"
URL = f"https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/{FILE}"
WANTED = f"{FILE} (1.2 GB, {URL})"
NAMES = {  # of a block: torchvision's and DINOv2's
    "ln_1": "norm1",
    "self_attention.in_proj": "attn.qkv",
    "self_attention.out_proj": "attn.proj",
    "ln_2": "norm2",
    "mlp.0": "mlp.fc1",
    "mlp.3": "mlp.fc2",
}
SCALES = {"attn.proj": "ls1.gamma", "mlp.fc2": "ls2.gamma"}


def _float_bicubic(pixels: Tensor) -> Tensor:
    """Resize as EDM2 does: antialiased bicubic on floats, not clipped."""
    return interpolate(pixels.float(), (SIDE, SIDE), mode="bicubic", antialias=True)


def _pil_bicubic(pixels: Tensor) -> Tensor:
    """Resize as dgm-eval does: PIL's bicubic filter on bytes."""
    images = (Image.fromarray(image) for image in pixels.permute(0, 2, 3, 1).cpu().numpy())
    resized = [np.array(one.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for one in images]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).to(pixels.device).float()


RESIZES: dict[str, Callable[[Tensor], Tensor]] = {
    "dinov2": _float_bicubic,
    "dinov2-pil": _pil_bicubic,
}
"""Ways to resize uint8 (B, 3, H, W) to float (B, 3, 224, 224) in [0, 255], by kind of features."""


def load_dinov2(kind: str, path: Path | None, device: torch.device) -> Extractor:
    """Load DINOv2 ViT-L/14 without registers; its feature is the class token, D = 1024.

    Args:
        kind: a key of RESIZES.
        path: the weights; None uses torch's cache, or downloads them.

    Raises:
        UserError: if they cannot be downloaded, or the file holds something else.
    """
    if path is None:
        path = downloaded(URL, FILE, WANTED)
    stored, digest = read_with_digest(path, read_torch_file)
    try:
        net = network_of(stored).to(device)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not {WANTED}: {one_line(error)}") from error
    mean, spread = (torch.tensor(x, device=device).view(1, 3, 1, 1) for x in (MEAN, SPREAD))
    resize = RESIZES[kind]

    def features(pixels: Tensor) -> Tensor:
        found: Tensor = net((resize(pixels) / 255 - mean) / spread)
        return found

    return Extractor("DINOv2", digest[:16], features, device, True, kind, "fd_dinov2")


def network_of(weights: Mapping[str, Any]) -> nn.Module:
    """Build the network from the entries of DINOv2's file: float (B, 3, 224, 224) -> (B, D).

    Raises:
        Exception: any kind, if the entries are others.
    """
    left = dict(weights)
    left.pop("mask_token", None)  # of its training
    width = left["cls_token"].shape[-1]
    depth = 1 + max(int(name.split(".")[1]) for name in left if name.startswith("blocks."))
    entries = {
        "class_token": left.pop("cls_token"),
        "encoder.pos_embedding": _positions(left.pop("pos_embed")),
        "conv_proj.weight": left.pop("patch_embed.proj.weight"),
        "conv_proj.bias": left.pop("patch_embed.proj.bias"),
        "encoder.ln.weight": left.pop("norm.weight"),
        "encoder.ln.bias": left.pop("norm.bias"),
    }
    for block in range(depth):
        scales = {name: left.pop(f"blocks.{block}.{scale}") for name, scale in SCALES.items()}
        for ours, theirs in NAMES.items():
            for part in ("weight", "bias"):
                value = left.pop(f"blocks.{block}.{theirs}.{part}")
                if theirs in scales:
                    value = scales[theirs].view(-1, *[1] * (value.ndim - 1)) * value
                joint = "_" if ours.endswith("in_proj") else "."
                entries[f"encoder.layers.encoder_layer_{block}.{ours}{joint}{part}"] = value
    if left:
        raise ValueError(f"it also holds {', '.join(sorted(left)[:3])}")
    with torch.device("meta"):
        net = VisionTransformer(
            SIDE, PATCH, depth, width // HEAD, width, 4 * width,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
        )  # fmt: skip
    net.heads = nn.Identity()
    net.load_state_dict({name: value.float() for name, value in entries.items()}, assign=True)
    return net.eval().requires_grad_(False)


def _positions(positions: Tensor) -> Tensor:
    """Interpolate the positions (1, 1 + n * n, D) of patches to those of 224 pixels."""
    of_class, of_patches = positions[:, :1].float(), positions[:, 1:].float()
    side, wanted = round(of_patches.shape[1] ** 0.5), SIDE // PATCH
    if side != wanted:
        grid = of_patches.view(1, side, side, -1).permute(0, 3, 1, 2)
        factor = (wanted + OFFSET) / side
        grid = interpolate(grid, scale_factor=(factor, factor), mode="bicubic")
        of_patches = grid.permute(0, 2, 3, 1).flatten(1, 2)
    return torch.cat([of_class, of_patches], 1)

"""Translates the weights of google-research/maskgit's tokenizers to the names of this family.

flax numbers the modules of encoder and decoder in the order of the computation.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from models.foreign_weights import count_modules

IN_BLOCK = {
    "GroupNorm_0": "norm1",
    "Conv_0": "conv1",
    "GroupNorm_1": "norm2",
    "Conv_1": "conv2",
    "Conv_2": "nin_shortcut",
}
BLOCK = re.compile(r"(encoder|decoder)\.ResBlock_(\d+)\.(\w+)\.(\w+)")
LAYER = re.compile(r"(encoder|decoder)\.(Conv|GroupNorm)_(\d+)\.(\w+)")


def with_our_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights, and turn the kernels; names that do not belong there stay as they are."""
    levels = count_modules(weights, "decoder.Conv_") - 1  # one between two levels, and both ends
    # Residual blocks of each level, and of the middle.
    each = max(1, count_modules(weights, "encoder.ResBlock_") // (levels + 1))
    return {
        _renamed(name, levels, each): value.permute(3, 2, 0, 1) if value.ndim == 4 else value
        for name, value in weights.items()
    }


def _renamed(name: str, levels: int, each: int) -> str:
    """Translate the name of a weight.

    Args:
        name: theirs.
        levels: number of resolutions.
        each: residual blocks of a level.
    """
    if name == "quantizer.codebook":
        return "quantize.embedding.weight"
    block, layer = BLOCK.fullmatch(name), LAYER.fullmatch(name)
    if block:
        level, number = divmod(int(block[2]), each)
        if block[1] == "encoder":
            place = f"down.{level}.block" if level < levels else "mid"
        else:
            place = f"up.{levels - level}.block" if level else "mid"
        inside = IN_BLOCK.get(block[3], block[3])
        return f"{block[1]}.{place}.{number}.{inside}.{_kind(block[4])}"
    if layer:
        number, last = int(layer[3]), 1 if layer[1] == "encoder" else levels
        at_ends = {0: "conv_in", last: "conv_out"}
        inside = at_ends.get(number, f"up.{levels - number}.upsample.conv")
        inside = inside if layer[2] == "Conv" else "norm_out"
        return f"{layer[1]}.{inside}.{_kind(layer[4])}"
    return name


def _kind(name: str) -> str:
    """Translate the last part of a name."""
    return {"kernel": "weight", "scale": "weight"}.get(name, name)

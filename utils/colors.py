"""Opponent colors: brightness apart from the two differences that make a color."""

import torch
from torch import Tensor

OPPONENT = ((1 / 3, 1 / 3, 1 / 3), (1.0, -1.0, 0.0), (-0.5, -0.5, 1.0))
OPPONENT_NAMES = ("luma", "red_green", "blue_yellow")


def opponent(images: Tensor) -> Tensor:
    """Turn red, green and blue into brightness and color differences.

    Args:
        images: float (B, 3, H, W).

    Returns:
        (B, 3, H, W): luma (the mean), red minus green, blue minus yellow. A gray image has 0 in the
        last two.
    """
    matrix = torch.tensor(OPPONENT, dtype=images.dtype, device=images.device)
    return torch.einsum("oc,bchw->bohw", matrix, images)

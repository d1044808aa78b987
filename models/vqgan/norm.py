"""GroupNorm that keeps its precision in the memory layout of the VQ-GAN."""

import torch
from torch import Tensor, nn


class GroupNorm(nn.GroupNorm):
    """torch's GroupNorm; on the CPU the mean of each group is subtracted first.

    For tensors in channels_last torch computes the variance on the CPU as E[x^2] - E[x]^2 in
    float32. If the mean is large compared with the deviation, as in flat parts of an image, no
    digit of the difference is right: with mean 1 and deviation 0.01 the result is off by 0.03.
    Normalized values do not depend on the mean, so nothing else changes.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (B, C, H, W) over the groups of its channels."""
        is_exact = x.device.type != "cpu" or x.is_contiguous()
        return super().forward(x if is_exact else x - self._group_means(x))

    @torch.no_grad()
    def _group_means(self, x: Tensor) -> Tensor:
        """The mean of each group at each of its channels: (B, C, 1, 1)."""
        batch, channels = x.shape[:2]
        of_channels = x.permute(0, 2, 3, 1).reshape(batch, -1, channels).mean(1)  # (B, C)
        means = of_channels.unflatten(1, (self.num_groups, -1)).mean(2, keepdim=True)  # (B, G, 1)
        width = channels // self.num_groups
        return means.expand(-1, -1, width).reshape(batch, channels, 1, 1)

"""A bidirectional transformer that learns faster than that of models/maskgit, with the same task.

It has the changes that made text models of this kind learn faster since 2022. docs/log/modern.md
has the measured gain of each, and of those that were left out.

- The last layers of attention and MLP start at 0, so that a block starts as the identity (Goyal et
  al. 2017, *Accurate, Large Minibatch SGD*).
- Rotary positions along the axes of the grid, beside learned ones.
- Queries and keys are normalized for each head (Henry et al. 2020, *Query-Key Normalization for
  Transformers*).
- No bias, and no weights in a norm: fewer operations.
- The class is added to every position. A position of its own costs more time than it seems: 65
  positions do not fill the tiles of the hardware.
- The activations between blocks have the precision of matrix products.

Ids 0 .. K-1 are image tokens, and K is the mask token.

Axes: B batch, L image tokens, K codebook, D width, H heads, N rows.
"""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.family import Family, Transformer
from models.fine_tuning import Change
from models.layers import Dropout, attend, initialize, rows_at
from models.modern.config import ModernConfig

SLOWEST = 0.01  # rotary angles fall from the fastest to almost this share of it
Turns = tuple[Tensor, Tensor]  # what `rotation` returns


class ModernTransformer(Transformer):
    """Predicts the image token at each position from tokens, some of them hidden, and a class."""

    config: ModernConfig
    joined: ClassVar[Mapping[str, int]] = {"queries_keys": 2}

    def __init__(self, config: ModernConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_dim
        self.token_embedding = nn.Embedding(config.codebook_size + 1, width)
        self.class_embedding = nn.Embedding(config.num_classes + 1, width)
        self.position_embedding = nn.Embedding(config.seq_len, width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.apply(initialize)
        for name in ("attention.out.weight", "mlp.2.weight"):  # a block starts as the identity
            for block in self.blocks:
                nn.init.zeros_(block.get_parameter(name))

    def forward(self, tokens: Tensor, labels: Tensor, at: Tensor | None = None) -> Tensor:
        """Predict the image token at each position; see `models.family.Transformer`."""
        positions = self.position_embedding.weight[: tokens.shape[1]]
        x = self.token_embedding(tokens) + self.class_embedding(labels)[:, None] + positions
        x = _in_precision(x)  # (B, L, D)
        turns = rotation(self.config.grid, self.config.hidden_dim // self.config.heads, x)
        *first, last = self.blocks
        for block in first:
            x = block(x, turns)
        x = last(x, turns, at)  # (B, L, D), or (N, D) with `at`
        # The output weights are the token embedding.
        return F.linear(normalize(x), self.token_embedding.weight[: self.config.codebook_size])

    @staticmethod
    def carry(name: str, weight: Tensor, change: Change) -> Tensor:
        """Fit the rows of classes and positions; see `models.family.Transformer`."""
        if name == "class_embedding.weight":
            return change.classes_and_null(weight)
        return change.positions(weight) if name == "position_embedding.weight" else weight


class Block(nn.Module):
    """Pre-norm transformer block: x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, config: ModernConfig) -> None:
        super().__init__()
        width = config.hidden_dim
        self.attention = Attention(width, config.heads)
        self.mlp = nn.Sequential(
            nn.Linear(width, config.mlp_dim, bias=False),
            nn.GELU(),
            nn.Linear(config.mlp_dim, width, bias=False),
        )
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, turns: Turns, at: Tensor | None = None) -> Tensor:
        """Map (B, L, D) to (B, L, D), or only to the rows `at` of the flattened positions."""
        x = x + self.dropout(self.attention(normalize(x), turns))
        if at is not None:
            x = rows_at(x, at)  # (N, D)
        return x + self.dropout(self.mlp(normalize(x)))


class Attention(nn.Module):
    """Multi-head self-attention in which every position sees every other."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        # Two layers: the norm would have to copy a part of the output of a single one.
        self.queries_keys = nn.Linear(width, 2 * width, bias=False)
        self.values = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, turns: Turns) -> Tensor:
        """Map (B, L, D) to (B, L, D)."""
        queries_keys = self.queries_keys(x).unflatten(-1, (2, self.heads, -1))  # (B, L, 2, H, D/H)
        values = self.values(x).unflatten(-1, (1, self.heads, -1))  # (B, L, 1, H, D/H)
        with torch.autocast(x.device.type, enabled=False):
            queries_keys = rotate(normalize(queries_keys), turns)
            qkv = torch.cat([queries_keys, values], 2)  # (B, L, 3, H, D/H)
            mixed = attend(qkv)  # (B, L, H, D/H)
        return self.out(mixed.flatten(-2))


def normalize(x: Tensor) -> Tensor:
    """Shift and scale x (..., D) to mean 0 and variance 1 over D; the dtype is kept.

    On CPUs one kernel of torch does this; dividing by the root mean square alone takes twice as
    long.
    """
    return F.layer_norm(x, x.shape[-1:]).type_as(x)


def rotation(grid: tuple[int, ...], width: int, like: Tensor) -> Turns:
    """Compute the angles by which the positions of a grid turn the channels of a head.

    These are the rotary positions of Su et al. 2021, *RoFormer*, for several axes. Each axis turns
    its share of the pairs of channels: the first pair by a quarter turn per step along the axis,
    the others more slowly.

    Args:
        grid: sizes of the axes; their product is L.
        width: channels of a head d, an even number.
        like: has the dtype and device of the result.

    Returns:
        Cosines and signed sines, (L, 1, 1, d) each.
    """
    pairs = width // 2 // len(grid)  # of an axis; what is left over does not turn
    numbers = torch.arange(max(*grid, pairs), device=like.device)
    rates = math.pi / 2 * SLOWEST ** (numbers[:pairs] / max(1, pairs))  # (pairs,)
    steps = torch.meshgrid(*(numbers[:size] for size in grid), indexing="ij")
    angles = torch.cat([axis.flatten()[:, None] * rates for axis in steps], 1)
    angles = F.pad(angles, (0, width // 2 - angles.shape[1]))[:, None, None]  # (L, 1, 1, d/2)
    sines = angles.sin()
    cosines = angles.cos().repeat(1, 1, 1, 2)
    return cosines.type_as(like), torch.cat([-sines, sines], -1).type_as(like)


def rotate(x: Tensor, turns: Turns) -> Tensor:
    """Turn channel i of x (B, L, 2, H, d) together with channel i + d/2."""
    cosines, sines = turns
    return torch.addcmul(x * cosines, x.roll(x.shape[-1] // 2, -1), sines)


def _in_precision(x: Tensor) -> Tensor:
    """Convert activations to the dtype of autocast, if it is on."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


FAMILY = Family(config=ModernConfig, network=ModernTransformer)

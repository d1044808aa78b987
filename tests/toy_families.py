"""Three families as somebody would add them: a config and a network each, and a row each."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from models.family import Family, TokenizerNetwork, Transformer
from models.foreign_file import ForeignFile
from models.registry import FAMILIES
from models.shapes import TokenizerShape, TransformerShape


@dataclass(frozen=True)
class GrayConfig(TokenizerShape):
    """Images of 8 x 8 pixels; a token is the mean gray of its cell of 2 x 2.

    Other square images have cells of another size, and are read by their first channel.
    """

    family: ClassVar[str] = "gray"
    image_size: tuple[int, int] = (8, 8)
    image_channels: int = 1
    grid: tuple[int, int] = (4, 4)
    codebook_size: int = 6


class GrayNetwork(TokenizerNetwork):
    def __init__(self, config: TokenizerShape) -> None:
        super().__init__()
        self.config = config
        self.levels = nn.Parameter(torch.linspace(-1, 1, config.codebook_size))

    @property
    def cell(self) -> int:
        return self.config.image_size[0] // self.config.grid[0]

    def encode(self, images: Tensor) -> Tensor:
        means = nn.functional.avg_pool2d(images[:, :1], self.cell)[:, 0]  # (B, h, w)
        return ((means + 1) / 2 * (self.config.codebook_size - 1)).round().long()

    def decode_tokens(self, tokens: Tensor) -> Tensor:
        cells = self.levels[tokens][:, None].expand(-1, self.config.image_channels, -1, -1)
        return cells.repeat_interleave(self.cell, 2).repeat_interleave(self.cell, 3)


@dataclass(frozen=True)
class RowConfig(TokenizerShape):
    """Images of 12 x 8 pixels as a sequence of 12 tokens, which knows no cells."""

    family: ClassVar[str] = "row"
    image_size: tuple[int, int] = (12, 8)
    image_channels: int = 1
    grid: tuple[int] = (12,)
    codebook_size: int = 6


class RowNetwork(GrayNetwork):
    def encode(self, images: Tensor) -> Tensor:
        means = images.mean((1, 3))  # (B, 12)
        return ((means + 1) / 2 * (self.config.codebook_size - 1)).round().long()

    def decode_tokens(self, tokens: Tensor) -> Tensor:
        return self.levels[tokens][:, None, :, None].expand(-1, 1, -1, 8)


@dataclass(frozen=True)
class CountConfig(TransformerShape):
    """A transformer that only looks at the class, and has none for "no class"."""

    family: ClassVar[str] = "count"
    usual: ClassVar = {"num_steps": 3}
    null_class: ClassVar[None] = None

    codebook_size: int
    num_classes: int
    seq_len: int
    hidden_dim: int = 4

    @property
    def mask_token(self) -> int:
        return self.codebook_size


class CountNetwork(Transformer):
    def __init__(self, config: CountConfig) -> None:
        super().__init__()
        self.config = config
        self.table = nn.Embedding(config.num_classes, config.hidden_dim)
        self.out = nn.Linear(config.hidden_dim, config.codebook_size)

    def forward(self, tokens: Tensor, labels: Tensor, at: Tensor | None = None) -> Tensor:
        logits = self.out(self.table(labels))[:, None].expand(-1, tokens.shape[1], -1)
        return logits if at is None else logits.flatten(0, 1)[at]


def is_gray(file: ForeignFile) -> bool:
    return isinstance(file.stored, dict) and "levels" in file.stored


def read_gray(file, image_size, given):
    return GrayConfig(image_size, codebook_size=len(file.stored["levels"])), file.stored


def is_count(file: ForeignFile) -> bool:
    return isinstance(file.stored, dict) and "table.weight" in file.stored


def read_count(file, expected):
    tokenizer = expected.tokenizer
    classes, width = file.stored["table.weight"].shape
    config = CountConfig(tokenizer.codebook_size, classes, tokenizer.seq_len, width)
    return config, file.stored


GRAY = Family(
    config=GrayConfig,
    network=GrayNetwork,
    layout="gray levels",
    recognizes=is_gray,
    read=read_gray,
)
ROW = Family(config=RowConfig, network=RowNetwork)
COUNT = Family(
    config=CountConfig,
    network=CountNetwork,
    layout="table of counts",
    recognizes=is_count,
    read=read_count,
)


def register(patch: pytest.MonkeyPatch) -> None:
    """Name the rows where those of real families are named."""
    patch.setitem(FAMILIES["tokenizer"], "gray", "toy_families:GRAY")
    patch.setitem(FAMILIES["tokenizer"], "row", "toy_families:ROW")
    patch.setitem(FAMILIES["transformer"], "count", "toy_families:COUNT")
